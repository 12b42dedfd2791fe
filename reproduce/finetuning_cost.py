"""What Tables 3 and 4 would fine-tune, and what that costs: computed, never tried."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flashdistill.config import RunConfig
from flashdistill.data.tasks.loading import load_task
from flashdistill.data.tasks.packaged import PACKAGED
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tasks.task import TaskKind
from flashdistill.evaluation.finetuning.settings import USUAL_LENGTH, TuningSettings
from flashdistill.models.work import encoder_flops
from flashdistill.planning.demands import Demand
from flashdistill.planning.step_flops import FORWARD_AND_BACKWARD
from reproduce.plan import plan_lines
from reproduce.scales import FineTuning, Scale

PUBLISHED_ROWS: dict[str, int] = {
    "cola": 8_551,
    "mnli": 392_702,
    "mrpc": 3_668,
    "qnli": 104_743,
    "qqp": 363_846,
    "rte": 2_490,
    "sst2": 67_349,
    "stsb": 5_749,
    "wnli": 635,
    "squad": 87_599,
    "squad2": 130_319,
}
"""Training rows of the public tasks, so that a plan needs no download."""


@dataclass(frozen=True)
class Rows:
    """A task as a plan sees it."""

    name: str
    kind: TaskKind
    train: int


def cost_lines(scale: Scale, config: RunConfig, part: FineTuning) -> list[str]:
    """The plan for a terminal: the distillations it needs, the fine-tunings, their time.

    Raises:
        InputError: a packaged task's package is not installed.
    """
    assert config.finetune is not None
    tuning = TuningSettings.model_validate({key: getattr(config.finetune, key) for key in TuningSettings.model_fields})
    lines = plan_lines(scale, config, [Demand("Table 2, regular", scale.students, config.regular)])
    others, teachers, two_stage = part.seeds
    # All students cost about what the baseline costs; the best one is trained by itself, from scratch, and taught.
    students = min(part.students or len(scale.students), len(scale.students) - 1)
    trainings = others * students + 2 * config.finetune.seeds + two_stage
    total = 0.0
    for settings in config.finetune.tasks:
        task = _rows(settings, config.seed)
        teacher = tuning.model_copy(update=part.teacher)
        flops = trainings * _student(scale, config, tuning, task) + teachers * _teacher(scale, teacher, task)
        total += flops
        lines.append(
            f"{task.name}: {task.train:,} training rows, {trainings} fine-tunings of {_steps(tuning, task):,} steps "
            f"and {teachers} of the teacher of {_steps(teacher, task):,}, {flops:.2e} FLOP"
        )
    hours = total / scale.flops_per_s / 3600
    lines.append(
        f"all fine-tunings: {hours:,.3g} hours of one machine at a sustained {scale.flops_per_s:.0e} FLOP/s, "
        "scoring not counted"
    )
    return lines


def _rows(settings: TaskSettings, seed: int) -> Rows:
    known = PUBLISHED_ROWS.get(settings.name) if settings.data is None else None
    if known is None or settings.name in PACKAGED:
        task = load_task(settings, seed)
        return Rows(task.name, task.kind, len(task.train))
    kind: TaskKind = "question-answering" if settings.name.startswith("squad") else "classification"
    return Rows(settings.name, kind, min(known, settings.max_train_rows or known))


def _steps(tuning: TuningSettings, task: Rows) -> int:
    return math.ceil(tuning.epochs * task.train / tuning.batch_size)


def _length(tuning: TuningSettings, task: Rows) -> int:
    return tuning.max_length or USUAL_LENGTH[task.kind]


def _student(scale: Scale, config: RunConfig, tuning: TuningSettings, task: Rows) -> float:
    """FLOPs of fine-tuning the baseline on full-length sequences; heads cost next to nothing."""
    family = config.student_family(scale.teacher.vocab_size)
    step = encoder_flops(scale.students[0], family, tuning.batch_size, _length(tuning, task))
    return FORWARD_AND_BACKWARD * step * _steps(tuning, task)


def _teacher(scale: Scale, tuning: TuningSettings, task: Rows) -> float:
    step = scale.teacher.body_flops(tuning.batch_size, _length(tuning, task))
    return FORWARD_AND_BACKWARD * step * _steps(tuning, task)
