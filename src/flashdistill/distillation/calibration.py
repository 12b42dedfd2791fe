"""From seconds per candidate to step counts, timed on the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from flashdistill.distillation.distill import Distillation
from flashdistill.distillation.progressive import StageInputs
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.training.loop import Phase, seconds_per_step

MINIMUM_PRETRAINING_STEPS = 10
_BATCHES = 2
"""Distinct batches that the timing uses; their teacher signals are computed before it counts."""


@dataclass(frozen=True)
class StepSeconds:
    """What a step costs, the teacher's signals at hand.

    Attributes:
        stage: seconds of one step of a stage.
        pretraining: seconds of one step of pre-training distillation.
    """

    stage: float
    pretraining: float


def time_steps(distillation: Distillation) -> StepSeconds:
    """Time both kinds of steps on a distillation that is thrown away afterwards.

    With several processes all of them must call it; the main one's times count.
    """
    inputs = StageInputs(distillation.student, distillation.signals)
    # In a soft freeze stages differ in cost, and the middle one is their mean.
    _, stage = distillation.stage((distillation.num_blocks - 1) // 2, inputs)
    seconds = StepSeconds(_seconds(stage, distillation), _seconds(distillation.pretraining(), distillation))
    return distillation.compute.from_main(seconds)


def resolve_steps(settings: DistillationSettings, seconds: StepSeconds | None, num_blocks: int) -> DistillationSettings:
    """The same budget in steps: ``progressive_ratio`` stage steps (of all blocks) a pre-training step."""
    if settings.seconds is None or seconds is None:
        return settings.with_ratio(num_blocks)
    ratio = settings.progressive_ratio
    pretraining_steps = settings.seconds / (ratio * seconds.stage + seconds.pretraining)
    steps_per_block = round(ratio * pretraining_steps / num_blocks)
    return settings.with_steps(steps_per_block, max(MINIMUM_PRETRAINING_STEPS, round(pretraining_steps)))


def _seconds(phase: Phase, distillation: Distillation) -> float:
    for parameter in distillation.student.parameters():
        parameter.requires_grad_(False)
    for parameter in phase.parameters:
        parameter.requires_grad_(True)
    phase.loss.to(distillation.compute.device)
    return seconds_per_step(
        lambda index: phase.time_step(index % _BATCHES, distillation.compute), repeats=5, discard=_BATCHES
    )
