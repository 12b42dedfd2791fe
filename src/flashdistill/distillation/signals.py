"""What the teacher says about the search's batches, computed once for all candidates.

Every candidate sees the same batches in the same order, so the teacher's answers are kept on
disk: feature and attention maps of the blocks that teach, for the stages' batches; and for the
pre-training batches the last feature map at the masked tokens, from which the head gives the
logits exactly, at a fraction of the logits' size (or the most probable tokens, if so configured).

Where the disk budget does not hold a batch's answers, the teacher's hidden state before the
block that teaches is kept instead, so that a step costs one teacher block; and where that does
not fit either, the teacher runs up to this block.

All values pass through the configured precision, stored or not, so that a candidate's result
does not depend on whether it came first.

Shapes: B sequences, S tokens, N teacher width, H teacher heads, M masked tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from flashdistill.core.errors import TeacherError
from flashdistill.core.files import content_key
from flashdistill.data.batch import Batch
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.distillation.losses import TopTokens
from flashdistill.distillation.rolling_store import RollingStore
from flashdistill.distillation.settings import DistillationSettings, LossSettings, SignalSettings
from flashdistill.distillation.signal_files import SignalFiles, file_bytes
from flashdistill.models.initialisation import TeacherSample, sample_teacher
from flashdistill.models.inputs import Inputs, model_inputs
from flashdistill.models.single_blocks import BlockMaps
from flashdistill.models.teacher import Teacher
from flashdistill.training.compute import WHOLE, Share
from flashdistill.training.current_step import CurrentStep

SAMPLE_BATCHES = 4
"""Stage batches that decide on the initial embeddings and head of every student."""

GIB = 1024**3

_PROJECTIONS = ("queries", "keys", "values")

Answers = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class StageSignals:
    """The answers of one teacher block to one batch, float32.

    Attributes:
        features: [B, S, N].
        attention: [B, H, S, S], rows sum to 1; None where no loss needs it.
        projections: queries, keys and values, [B, S, W] each; empty where no loss needs them.
    """

    features: torch.Tensor
    attention: torch.Tensor | None
    projections: tuple[torch.Tensor, ...]


class LoadedBatch:
    """A batch as tensors on the device.

    Attributes:
        inputs: what a model's body takes, [B, S] each.
        masked_positions, masked_labels: [M] flat token positions and their tokens.
        next_sentence_labels: [B].
        num_tokens: real tokens.
    """

    def __init__(self, batch: Batch, device: torch.device):
        self.inputs: Inputs = model_inputs(batch, device)
        self.masked_positions = torch.from_numpy(batch.masked_positions).to(device)
        self.masked_labels = torch.from_numpy(batch.masked_labels).to(device)
        self.next_sentence_labels = torch.from_numpy(batch.next_sentence_labels).to(device)
        self.num_tokens = batch.num_tokens


class TeacherSignals:
    """The teacher's answers to batch t of the stages and of the pre-training distillation."""

    def __init__(
        self,
        teacher: Teacher,
        stage_data: PretrainingData,
        pretraining_data: PretrainingData,
        batch_size: int,
        settings: SignalSettings,
        losses: LossSettings,
        directory: Path | None = None,
        teacher_identity: str = "",
        taught_blocks: Sequence[int] | None = None,
        remember_step: bool = False,
        pretraining_steps: int = 0,
    ):
        """Args:
        directory: where answers are kept; None: they are computed anew.
        taught_blocks: the teacher's blocks (from 0) that any student learns from; None: all.
        remember_step: hold the answers of the current step, for several students side by side.
        pretraining_steps: for how many batches room is kept from the much larger answers of the
            stages, since a byte saves hundreds of times more work there; 0: not known, half of it.
        """
        if losses.relations:
            _require_relations(teacher, losses.relation_heads)
        self.teacher = teacher
        self.stage_data, self.pretraining_data = stage_data, pretraining_data
        self.batch_size = batch_size
        self.settings = settings
        self.taught_blocks = sorted(set(taught_blocks or range(teacher.shape.num_blocks)))
        self._kinds = _kinds(losses)
        self._directory = directory
        key = content_key(
            teacher_identity, stage_data.identity, pretraining_data.identity, batch_size,
            settings.precision, settings.top_k, self.taught_blocks, self._kinds,
        )  # fmt: skip
        self._batches: CurrentStep[LoadedBatch] = CurrentStep()
        self._answers: CurrentStep[Answers] | None = CurrentStep() if remember_step else None
        self._rolling = self.rolling_store()
        room = int(settings.disk_gib * GIB)
        reserved = min(room, pretraining_steps * self._pretraining_size()) if pretraining_steps else room // 2
        self._stage_files = SignalFiles(directory and directory / "stages", room - reserved, key)
        self._pretraining_files = SignalFiles(directory and directory / "pretraining", reserved, key)

    @property
    def device(self) -> torch.device:
        return self.teacher.device

    def rolling_store(self) -> RollingStore:
        """An empty store for hidden states with the configured budgets."""
        memory, disk = int(self.settings.memory_gib * GIB), int(self.settings.disk_gib * GIB)
        return RollingStore(memory, disk, self._directory)

    @cached_property
    def sample(self) -> TeacherSample:
        """The first stage batches through the teacher, from which students are initialised."""
        batches = [self.stage_batch(index) for index in range(SAMPLE_BATCHES)]
        return sample_teacher(self.teacher, [(batch.inputs, batch.masked_positions) for batch in batches])

    def stage_batch(self, index: int, share: Share = WHOLE) -> LoadedBatch:
        return self._batch(self.stage_data, "stage", index, share)

    def pretraining_batch(self, index: int, share: Share = WHOLE) -> LoadedBatch:
        return self._batch(self.pretraining_data, "pretraining", index, share)

    def stage(self, index: int, share: Share, block: int, shared: bool = True, again: bool = False) -> StageSignals:
        """The answers of ``block`` (from 0) to stage batch ``index``.

        Args:
            shared: whether other stages see this batch, too; then all blocks' answers are kept
                at once.
            again: whether the next stage learns from the same block, as in a student deeper than its
                teacher; then what enters the block is kept, else what leaves it.
        """
        blocks = self.taught_blocks if shared else [block]
        name = _name("stage" if shared else f"block-{block}", index, share)
        wanted = {kind: f"{kind}_{block}" for kind in self._kinds}

        def answer() -> dict[str, torch.Tensor]:
            if (known := self._stage_files.read(name, wanted.values())) is not None:
                return {kind: known[label] for kind, label in wanted.items()}
            if self._stage_files.has_room(*self._stage_size(index, share, blocks)):
                everything = self._all_maps(index, share, blocks)
                self._stage_files.write(name, everything)
                return {kind: everything[label] for kind, label in wanted.items()}
            return self._kept(self._rolled(index, share, block, shared, again))

        answers = self._once((shared, index, block), share, answer)
        found = {kind: value.to(self.device).float() for kind, value in answers.items()}
        projections = tuple(found[kind] for kind in _PROJECTIONS if kind in found)
        return StageSignals(found["features"], found.get("attention"), projections)

    def decoder_inputs(self, index: int, share: Share = WHOLE) -> torch.Tensor:
        """What the teacher's head feeds its decoder at the masked tokens of stage batch ``index``, [M, N_d]."""
        name = _name("decoder", index, share)

        def compute() -> Answers:
            batch = self.stage_batch(index, share)
            last = self._before(index, share, self.teacher.shape.num_blocks).flatten(0, 1)[batch.masked_positions]
            return {"inputs": self._rounded(self.teacher.decoder_inputs(last)).cpu()}

        def answer() -> Answers:
            return self._stage_files.recall(name, ["inputs"], compute)

        return self._once(("decoder", index), share, answer)["inputs"].to(self.device).float()

    def mlm_target(self, index: int, share: Share = WHOLE) -> torch.Tensor | TopTokens:
        """The teacher's logits [M, V] at the masked tokens of a pre-training batch, or the largest of them."""
        name = _name("pretraining", index, share)
        labels = ["masked"] if self.settings.top_k is None else ["indices", "logits"]

        def compute() -> Answers:
            batch = self.pretraining_batch(index, share)
            features = self.teacher.masked_features(batch.inputs, batch.masked_positions)
            if self.settings.top_k is None:
                return {"masked": self._rounded(features).cpu()}
            top = self.teacher.mlm_logits(features).topk(self.settings.top_k)
            return {"indices": top.indices.int().cpu(), "logits": self._rounded(top.values).cpu()}

        def answer() -> Answers:
            return self._pretraining_files.recall(name, labels, compute)

        answers = self._once(("pretraining", index), share, answer)
        found = {label: value.to(self.device) for label, value in answers.items()}
        if self.settings.top_k is None:
            return self.teacher.mlm_logits(found["masked"].float())
        return TopTokens(found["indices"].long(), found["logits"].float())

    def _all_maps(self, index: int, share: Share, blocks: Sequence[int]) -> dict[str, torch.Tensor]:
        """The answers of several blocks in one pass."""
        batch = self.stage_batch(index, share)
        hidden, position = self.teacher.blocks.embed(batch.inputs), 0
        everything: dict[str, torch.Tensor] = {}
        for block in blocks:
            hidden = self.teacher.blocks.run(hidden, batch.inputs, position, block)
            maps = self._maps(hidden, batch.inputs, block)
            everything |= {f"{kind}_{block}": value.cpu() for kind, value in self._kept(maps).items()}
            hidden, position = maps.features, block + 1
        if blocks[-1] == self.teacher.shape.num_blocks - 1:
            # The head transfer asks for what the last block leads to; it is at hand now.
            decoder_inputs = self.teacher.decoder_inputs(hidden.flatten(0, 1)[batch.masked_positions])
            self._stage_files.write(_name("decoder", index, share), {"inputs": self._rounded(decoder_inputs).cpu()})
        return everything

    def _rolled(self, index: int, share: Share, block: int, keep: bool, again: bool) -> BlockMaps:
        """One block's maps from the kept hidden state before it, or from the beginning."""
        hidden = self._before(index, share, block)
        maps = self._maps(hidden, self.stage_batch(index, share).inputs, block)
        if keep and again:
            self._rolling.put((index, share), block, hidden)
        elif keep:
            self._rolling.put((index, share), block + 1, maps.features)
        return maps

    def _before(self, index: int, share: Share, block: int) -> torch.Tensor:
        """The feature map that enters ``block``, [B, S, N]."""
        inputs = self.stage_batch(index, share).inputs
        position, hidden = self._rolling.get((index, share)) or (0, None)
        if hidden is None or position > block:
            position, hidden = 0, self.teacher.blocks.embed(inputs)
        return self.teacher.blocks.run(hidden, inputs, position, block)

    def _maps(self, hidden: torch.Tensor, inputs: Inputs, block: int) -> BlockMaps:
        return self.teacher.blocks.maps(hidden, inputs, block, projections="queries" in self._kinds)

    def _kept(self, maps: BlockMaps) -> dict[str, torch.Tensor]:
        """What the losses need of a block's maps, rounded."""
        kept: dict[str, torch.Tensor] = {}
        for kind in self._kinds:
            value: torch.Tensor = getattr(maps, kind)
            kept[kind] = self._rounded(value.transpose(1, 2).flatten(2) if kind in _PROJECTIONS else value)
        return kept

    @property
    def _value_bytes(self) -> int:
        return 2 if self.settings.precision == "half" else 4

    def _stage_size(self, index: int, share: Share, blocks: Sequence[int]) -> tuple[int, int]:
        """Bytes and number of the tensors that the blocks' answers to a batch are."""
        sequences, length = self.stage_batch(index, share).inputs["input_ids"].shape
        shape = self.teacher.shape
        widths = {"features": shape.hidden_size, "attention": shape.num_heads * length}
        width = sum(widths.get(kind, shape.hidden_size) for kind in self._kinds)
        return sequences * length * width * self._value_bytes * len(blocks), len(blocks) * len(self._kinds)

    def _pretraining_size(self) -> int:
        """Bytes of the answers to a pre-training batch as a file."""
        tokens = len(self.pretraining_batch(0).masked_positions)
        kept = self.settings.top_k
        width = self.teacher.shape.hidden_size * self._value_bytes if kept is None else kept * (4 + self._value_bytes)
        return file_bytes(tokens * width * 11 // 10, 2)  # batches differ a little

    def _rounded(self, value: torch.Tensor) -> torch.Tensor:
        """In the configured precision; values beyond the range of half precision stay as they are."""
        value = value.float().contiguous()
        half = self.settings.precision == "half" and value.abs().max() <= torch.finfo(torch.float16).max
        return value.half() if half else value

    def _once(self, step: object, share: Share, answer: Callable[[], Answers]) -> Answers:
        return answer() if self._answers is None else self._answers.get(step, share, answer)

    def _batch(self, data: PretrainingData, kind: str, index: int, share: Share) -> LoadedBatch:
        def make() -> LoadedBatch:
            return LoadedBatch(data.batch(index, self.batch_size, share.index, share.count), self.device)

        return self._batches.get((kind, index), share, make)


def _require_relations(teacher: Teacher, relation_heads: int) -> None:
    """Raises TeacherError where relations cannot be formed from this teacher."""
    teacher.blocks.require_projections(length=8)
    if teacher.shape.hidden_size % relation_heads:
        raise TeacherError(
            f"losses.relation_heads: {relation_heads} does not divide the teacher's hidden size of "
            f"{teacher.shape.hidden_size}"
        )


def signals_name(settings: DistillationSettings) -> str:
    """A directory name that budgets share which need the same answers."""
    kinds = _kinds(settings.losses)
    return "-".join([f"batch-{settings.batch_size}", *(kind for kind in ("attention", "queries") if kind in kinds)])


def _kinds(losses: LossSettings) -> tuple[str, ...]:
    """Which of a block's maps the losses need."""
    attention = ("attention",) if losses.attention else ()
    return ("features", *attention, *(_PROJECTIONS if losses.relations else ()))


def _name(kind: str, index: int, share: Share) -> str:
    part = "" if share.count == 1 else f"-{share.index + 1}of{share.count}"
    return f"{kind}-{index:08d}{part}"
