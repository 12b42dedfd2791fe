"""How much of what the models say about the batches finds room, and what that room costs.

The same sizes and the same order of preference as in `distillation.signals`: first the teacher's
answers on disk; for batches beyond, its hidden state before the block that teaches, in memory,
then on disk; and the student's hidden state before the block in training likewise.

Shapes: B sequences, S tokens, N teacher width, H teacher heads, M masked tokens, h student width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashdistill.core.architecture import Architecture
from flashdistill.distillation.settings import DistillationSettings, LossSettings, SignalSettings
from flashdistill.distillation.signal_files import file_bytes
from flashdistill.distillation.signals import GIB
from flashdistill.planning.step_flops import BatchShape
from flashdistill.planning.teacher_shape import TeacherShape

_SINGLE = 4
BOUNDLESS_GIB = 1e12
"""Room for all answers of any run."""


@dataclass(frozen=True)
class Room:
    """For how many batches there is room; a budget that has fewer uses less.

    Attributes:
        answered: stage batches with the answers of all blocks that teach.
        decoder_inputs: stage batches with what the head transfer asks for.
        pretraining: batches with the last feature map at the masked tokens.
        teacher_hidden, student_hidden: stage batches with hidden states.
    """

    answered: int
    decoder_inputs: int
    pretraining: int
    teacher_hidden: int
    student_hidden: int


@dataclass(frozen=True)
class AnswerSizes:
    """Bytes that one batch's answers take.

    Attributes:
        stage: a file with the maps of the blocks that teach.
        decoder: a file for the head transfer.
        pretraining: a file for the pre-training distillation.
        teacher_hidden: [B, S, N] in float32.
    """

    stage: int
    decoder: int
    pretraining: int
    teacher_hidden: int

    @classmethod
    def of(
        cls,
        settings: DistillationSettings,
        signals: SignalSettings,
        teacher: TeacherShape,
        batch: BatchShape,
        num_taught: int,
    ) -> AnswerSizes:
        """``num_taught``: the teacher's blocks that students of any depth in the space learn from."""
        value = 2 if signals.precision == "half" else _SINGLE
        kinds = _kinds(settings.losses)
        widths = {"features": teacher.hidden_size, "attention": teacher.num_heads * batch.length}
        width = sum(widths.get(kind, teacher.attended_size) for kind in kinds)
        blocks = num_taught if settings.stage_batches == "same" else 1
        masked = round(batch.masked)
        kept = teacher.hidden_size * value if signals.top_k is None else signals.top_k * (_SINGLE + value)
        return cls(
            stage=file_bytes(batch.tokens * width * value * blocks, blocks * len(kinds)),
            decoder=file_bytes(masked * teacher.decoder_size * value, 1),
            pretraining=file_bytes(masked * kept, 1 if signals.top_k is None else 2),
            teacher_hidden=batch.tokens * teacher.hidden_size * _SINGLE,
        )


def room_for(
    sizes: AnswerSizes, signals: SignalSettings, pretraining_steps: int, architecture: Architecture, batch: BatchShape
) -> Room:
    """What the configured gigabytes hold.

    Args:
        pretraining_steps: of the longest budget that shares the answers; their room comes first.
    """
    room, memory = int(signals.disk_gib * GIB), int(signals.memory_gib * GIB)
    reserved = min(room, pretraining_steps * sizes.pretraining)
    for_stages = room - reserved
    answered = for_stages // (sizes.stage + sizes.decoder)
    rest = for_stages - answered * (sizes.stage + sizes.decoder)

    def hidden(size: int) -> int:
        return memory // size + room // size

    return Room(
        answered=answered,
        decoder_inputs=answered + rest // sizes.decoder,
        pretraining=reserved // sizes.pretraining,
        teacher_hidden=hidden(sizes.teacher_hidden),
        student_hidden=hidden(batch.tokens * architecture.hidden_size * _SINGLE),
    )


def blocks_run(taught: Sequence[int], hidden_is_kept: bool) -> int:
    """Teacher blocks that all stages together run on one batch whose answers are not on disk.

    Args:
        taught: by stage, the block that teaches.
        hidden_is_kept: whether a stage begins where the one before ended, or, where it is taught by the
            same block again, before that.
    """
    position = total = 0
    for stage, block in enumerate(taught):
        total += block + 1 - position
        if hidden_is_kept:
            position = block if block in taught[stage + 1 :] else block + 1
    return total


def distinct_batches(settings: DistillationSettings, depth: int) -> int:
    """Stage batches that a distillation sees."""
    steps = settings.steps_per_block or 0
    return steps if settings.stage_batches == "same" else depth * steps


def answer_bytes(sizes: AnswerSizes, room: Room, budgets: Sequence[tuple[int, int, int]]) -> int:
    """Bytes of answers on disk at the end of a run.

    Args:
        budgets: of those that share the answers, each its stage batches, those of them that the
            head transfer sees, and its pre-training steps.
    """
    stages, decoder, pretraining = (max(counts, default=0) for counts in zip(*budgets, strict=True))
    return (
        min(stages, room.answered) * sizes.stage
        + min(decoder, room.decoder_inputs) * sizes.decoder
        + min(pretraining, room.pretraining) * sizes.pretraining
    )


def _kinds(losses: LossSettings) -> tuple[str, ...]:
    """Which of a block's maps the losses need."""
    attention = ("attention",) if losses.attention else ()
    return ("features", *attention, *(("queries", "keys", "values") if losses.relations else ()))
