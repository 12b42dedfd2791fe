"""Steps and floating-point operations of a whole distillation, as the code runs it.

What repeats from student to student is kept apart from what does not: answers of the teacher that
find room on disk are computed once in a run; the others by every student, or once for several
that are distilled side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.distillation.layer_map import layer_map
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.planning.kept_answers import Room, blocks_run, distinct_batches
from flashdistill.planning.step_flops import BatchShape, StudentSteps
from flashdistill.planning.teacher_shape import TeacherShape

NO_ROOM = Room(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class DistillationCost:
    """Of one training.

    Attributes:
        steps: optimiser steps of all phases.
        student: floating-point operations of the student.
        teacher: of the teacher, for this student alone or for those beside it.
        teacher_once: of the teacher, for all students of the run; the first one to come pays.
        teacher_head: of the teacher's head on kept feature maps, for every student.
    """

    steps: int
    student: float
    teacher: float
    teacher_once: float
    teacher_head: float = 0.0


@dataclass(frozen=True)
class Circumstances:
    """What all distillations of a budget share.

    Attributes:
        batch: as the models see it.
        logits: the same, with as many logits as are formed in a pre-training batch.
        taught_blocks: the teacher's blocks that students of any depth learn from; all of them are
            answered at once.
        room: for what is kept.
        top_k: see `SignalSettings`.
    """

    family: StudentFamily
    teacher: TeacherShape
    batch: BatchShape
    logits: BatchShape
    taught_blocks: tuple[int, ...]
    room: Room
    top_k: int | None = None

    @classmethod
    def without_savings(cls, family: StudentFamily, teacher: TeacherShape, batch: BatchShape) -> Circumstances:
        """Nothing is kept and logits are formed at every position: every model runs from the first block each time."""
        return cls(family, teacher, batch, batch.all_masked, (), NO_ROOM)

    @property
    def answers_whole(self) -> bool:
        """Whether answering a stage batch runs the whole teacher, and its head at once."""
        return self.teacher.num_layers - 1 in self.taught_blocks


def distillation_cost(
    architecture: Architecture, settings: DistillationSettings, around: Circumstances
) -> DistillationCost:
    """The cost of one distillation whose step counts are resolved."""
    steps = StudentSteps(architecture, around.family, around.teacher, settings.losses)
    stages, own, once = _stages(steps, settings, around)
    head_own, head_once = _head_answers(steps, settings, around)
    pretraining, answered, head = _pretraining_answers(settings, around)
    student = stages + _head_transfer(steps, settings, around)
    student += (settings.pretraining_steps or 0) * steps.pretraining(around.logits)
    return DistillationCost(
        steps=settings.total_steps(steps.depth),
        student=student,
        teacher=own + head_own + pretraining,
        teacher_once=once + head_once + answered,
        teacher_head=head,
    )


def _stages(steps: StudentSteps, settings: DistillationSettings, around: Circumstances) -> tuple[float, float, float]:
    """FLOPs of the student, of the teacher for it, and of the teacher once for all."""
    batch, depth, each = around.batch, steps.depth, settings.steps_per_block or 0
    soft = settings.earlier_block_rate > 0
    # In a hard freeze all stages cost the same; in a soft one their mean is that of the first and the last.
    student = each * depth * (steps.stage(batch, 0, soft) + steps.stage(batch, depth - 1, soft)) / 2
    student += _inputs_of_stages(steps, settings, around, soft)
    taught = layer_map(depth, around.teacher.num_layers)
    teacher, batches = around.teacher, distinct_batches(settings, depth)
    size = batch.sequences, batch.length
    block, shown = teacher.block_flops(*size), teacher.attention_map_flops(*size)
    answered = min(batches, around.room.answered)
    if settings.stage_batches == "new":  # each stage's batches are its own
        share = answered / max(1, batches)
        every = sum(teacher.embedding_flops(*size) + (stage + 1) * block + shown for stage in taught)
        heads = taught.count(teacher.num_layers - 1) * teacher.head_flops(batch.masked)
        return student, each * (1 - share) * every, each * share * (every + heads)
    answers = around.taught_blocks or (0,)
    once = teacher.embedding_flops(*size) + (max(answers) + 1) * block + len(answers) * shown
    if around.answers_whole:
        once += teacher.head_flops(batch.masked)
    others = batches - answered
    rolled = min(others, around.room.teacher_hidden)
    own = rolled * blocks_run(taught, True) + (others - rolled) * blocks_run(taught, False)
    own = own * block + others * depth * (shown + teacher.embedding_flops(*size))
    return student, own, answered * once


def _inputs_of_stages(steps: StudentSteps, settings: DistillationSettings, around: Circumstances, soft: bool) -> float:
    """What the student computes to form what enters the blocks in training."""
    batch, each, depth = around.batch, settings.steps_per_block or 0, steps.depth
    embedding, block = steps.embedding(batch), steps.block(batch)
    same = settings.stage_batches == "same"
    kept = min(each, around.room.student_hidden) if same else 0
    before = 0 if soft else depth * (depth - 1) // 2
    moved = embedding + (0 if soft else (depth - 1) * block)
    return kept * moved + (each - kept) * (depth * embedding + before * block)


def _head_transfer(steps: StudentSteps, settings: DistillationSettings, around: Circumstances) -> float:
    """FLOPs of the student in the fit of its head; it sees the first batches once a block."""
    count = settings.head_steps(steps.depth)
    if not count:
        return 0.0
    batch, each, depth = around.batch, settings.steps_per_block or 0, steps.depth
    kept = min(each, around.room.student_hidden)
    whole = steps.body(batch)
    # What was kept stands before the last block, or, in a soft freeze, before the first.
    first = depth * steps.block(batch) if settings.earlier_block_rate else steps.block(batch)
    if settings.stage_batches == "new":
        first = whole
    inputs = kept * first + (each - kept) * depth * whole
    return count * steps.head_transfer(batch) + steps.head_transfer_begin + inputs


def _head_answers(steps: StudentSteps, settings: DistillationSettings, around: Circumstances) -> tuple[float, float]:
    """FLOPs of the teacher for the head's fit: for this student, and once for all."""
    count, each = settings.head_steps(steps.depth), settings.steps_per_block or 0
    if not count:
        return 0.0, 0.0
    teacher, batch = around.teacher, around.batch
    size = batch.sequences, batch.length
    same = settings.stage_batches == "same"
    done = min(each, around.room.answered) if same and around.answers_whole else 0
    noted = max(done, min(each, around.room.decoder_inputs))
    rolled = max(0, min(each - done, around.room.teacher_hidden)) if same else 0
    near, far = (
        cost + teacher.head_flops(batch.masked) for cost in (teacher.embedding_flops(*size), teacher.body_flops(*size))
    )
    noted_near = min(max(0, noted - done), rolled)
    noted_far = max(0, noted - done - rolled)
    far_left = each - done - rolled - noted_far
    own = (rolled - noted_near) * near + far_left * far
    return own * steps.depth, noted_near * near + noted_far * far


def _pretraining_answers(settings: DistillationSettings, around: Circumstances) -> tuple[float, float, float]:
    """FLOPs of the teacher for Eq. 3: for this student, once for all, and of its head for every student."""
    count = settings.pretraining_steps or 0
    if settings.losses.alpha == 1:  # its logits are not asked for
        return 0.0, 0.0, 0.0
    teacher, kept = around.teacher, min(count, around.room.pretraining)
    body = teacher.body_flops(around.batch.sequences, around.batch.length)
    head = teacher.head_flops(around.logits.masked)
    if around.top_k is not None:  # logits are what is kept
        return (count - kept) * (body + head), kept * (body + head), 0.0
    return (count - kept) * body, kept * body, count * head
