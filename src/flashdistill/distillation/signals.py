"""What the teacher says about the search's batches, computed once for all candidates.

Every candidate sees the same batches in the same order, so the teacher's answers are kept on
disk: feature and attention maps of every block for the stages' batches, and for the
pre-training batches the last feature map at the masked tokens, from which the head gives the
logits exactly, at a fraction of the logits' size.

All values pass through half precision, stored or not, so that a candidate's result does not
depend on whether it came first.

Shapes: B sequences, S tokens, N teacher width, H teacher heads, M masked tokens, V vocabulary.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flashdistill.core.files import atomic_path, content_key
from flashdistill.data.batch import Batch
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.models.initialisation import TeacherSample, sample_teacher
from flashdistill.models.inputs import model_inputs
from flashdistill.models.teacher import Teacher

SAMPLE_BATCHES = 4
"""Stage batches that decide on the initial embeddings and head of every student."""

log = logging.getLogger(__name__)


class TeacherSignals:
    """The teacher's answers to batch t of the stages and of the pre-training distillation."""

    def __init__(
        self,
        teacher: Teacher,
        stage_data: PretrainingData,
        pretraining_data: PretrainingData,
        batch_size: int,
        directory: Path | None,
        byte_budget: int,
        teacher_identity: str = "",
    ):
        """``directory`` None or a ``byte_budget`` of 0: nothing is kept, all is computed anew."""
        self.teacher = teacher
        self.stage_data = stage_data
        self.pretraining_data = pretraining_data
        self.batch_size = batch_size
        self._cache = _SignalFiles(
            directory,
            byte_budget,
            content_key(teacher_identity, stage_data.identity, pretraining_data.identity, batch_size),
        )
        self._blocks = list(range(teacher.shape.num_blocks))

    @cached_property
    def sample(self) -> TeacherSample:
        """The first stage batches through the teacher, from which students are initialised."""
        batches = [self.stage_batch(step) for step in range(SAMPLE_BATCHES)]
        return sample_teacher(
            self.teacher, [(model_inputs(batch), torch.from_numpy(batch.masked_positions)) for batch in batches]
        )

    def stage_batch(self, step: int) -> Batch:
        return self.stage_data.batch(step, self.batch_size)

    def pretraining_batch(self, step: int) -> Batch:
        return self.pretraining_data.batch(step, self.batch_size)

    def feature_map(self, step: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's feature map [B, S, N] and attention [B, H, S, S] after block ``block`` (from 0)."""
        found = self._stage(step, [f"feature_{block}", f"attention_{block}"])
        return found[f"feature_{block}"], found[f"attention_{block}"]

    def decoder_inputs(self, step: int) -> torch.Tensor:
        """What the teacher's head feeds its decoder at the masked tokens of stage batch ``step``, [M, N_d]."""
        return self._stage(step, ["decoder_inputs"])["decoder_inputs"]

    def _stage(self, step: int, wanted: list[str]) -> dict[str, torch.Tensor]:
        def compute() -> dict[str, torch.Tensor]:
            batch = self.stage_batch(step)
            features, attentions = self.teacher.feature_maps(model_inputs(batch), self._blocks)
            last = features[-1].flatten(0, 1)[torch.from_numpy(batch.masked_positions)]
            found = {"decoder_inputs": self.teacher.decoder_inputs(last)}
            for index, feature, attention in zip(self._blocks, features, attentions, strict=True):
                found |= {f"feature_{index}": feature, f"attention_{index}": attention}
            return found

        return self._cache.get(f"stage-{step:08d}", wanted, compute)

    def mlm_logits(self, step: int, batch: Batch) -> torch.Tensor:
        """The teacher's logits [M, V] at the masked tokens of pre-training batch ``step``."""

        def compute() -> dict[str, torch.Tensor]:
            positions = torch.from_numpy(batch.masked_positions)
            return {"masked": self.teacher.masked_features(model_inputs(batch), positions)}

        features = self._cache.get(f"pretraining-{step:08d}", ["masked"], compute)["masked"]
        return self.teacher.mlm_logits(features)


class _SignalFiles:
    """One safetensors file a batch, with a checksum, up to a number of bytes in all."""

    def __init__(self, directory: Path | None, byte_budget: int, key: str):
        self._directory = directory if byte_budget > 0 else None
        self._key = key
        self._verified: set[str] = set()
        self._free = byte_budget
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._free -= sum(path.stat().st_size for path in self._directory.glob("*.safetensors"))

    def get(
        self, name: str, wanted: list[str], compute: Callable[[], Mapping[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """The wanted tensors in float32: from the file ``name`` if it is intact, else computed."""
        if self._directory is None:
            return {key: value.float() for key, value in _halved(compute()).items() if key in wanted}
        path = self._directory / f"{name}.safetensors"
        found = self._read(path, wanted)
        if found is None:
            tensors = _halved(compute())
            self._write(path, tensors)
            found = {key: tensors[key] for key in wanted}
        return {key: value.float() for key, value in found.items()}

    def _read(self, path: Path, wanted: list[str]) -> dict[str, torch.Tensor] | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    raise ValueError("it belongs to another teacher, corpus or batch size")
                if path.name not in self._verified:
                    everything = {key: file.get_tensor(key) for key in sorted(file.keys())}
                    if metadata.get("checksum") != _checksum(everything):
                        raise ValueError("its checksum is wrong")
                    self._verified.add(path.name)
                return {key: file.get_tensor(key) for key in wanted}
        except (SafetensorError, ValueError, OSError) as error:
            log.warning("computing the teacher's signals again, %s cannot be used: %s", path, error)
            self._free += path.stat().st_size
            path.unlink(missing_ok=True)
            return None

    def _write(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in tensors.values()) + 1024 * (1 + len(tensors))
        if size > self._free:
            return
        metadata = {"key": self._key, "checksum": _checksum(tensors)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata)
        self._free -= path.stat().st_size
        self._verified.add(path.name)


def _halved(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Half precision where the values fit into its range (MobileBERT's feature maps do not)."""
    limit = torch.finfo(torch.float16).max
    return {
        name: (value if value.abs().max() > limit else value.half()).contiguous() for name, value in tensors.items()
    }


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].contiguous().view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"
