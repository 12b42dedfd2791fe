"""What a plan says: a run's trainings, operations, memory and disk, before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from flashdistill.core.architecture import Architecture
from flashdistill.planning.answers import AnswerPlan
from flashdistill.planning.demands import Measuring
from flashdistill.planning.devices import Rates
from flashdistill.planning.disk import DiskUse
from flashdistill.planning.memory import TrainingMemory
from flashdistill.planning.teacher_shape import TeacherShape

Savings = Literal["configured", "roomy", "none"]
"""With the configured room for the teacher's answers, with room for all of them, with nothing saved at all."""

SAVINGS: tuple[Savings, ...] = get_args(Savings)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, of students and of the teacher."""

    student: float
    teacher: float

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.student + other.student, self.teacher + other.teacher)


@dataclass(frozen=True)
class DemandCost:
    """All trainings of one kind together.

    Attributes:
        steps: of one training; None where seconds are the budget, until the calibration.
        seconds: of one training, where they are the budget.
        tokens: of all, padding included.
        flops: by `Savings`; what the teacher does once for all is not in it.
    """

    what: str
    trainings: float
    steps: int | None
    seconds: float | None
    tokens: float | None
    flops: Mapping[str, Flops] | None


@dataclass(frozen=True)
class TeacherCost:
    """Preparing the teacher; None where there is nothing to train, or only the seconds are known."""

    what: str
    steps: int | None = None
    seconds: float | None = None
    tokens: float | None = None
    flops: float | None = None


@dataclass(frozen=True)
class RunPlan:
    """Everything that a plan says: bytes, seconds, operations.

    Attributes:
        within_limits: architectures that satisfy the limits on size.
        trained: candidates of the search, the baseline not among them.
        teacher_once: operations of the teacher for all students together, by `Savings`.
        scoring: held-out text through all models.
        memory_of: the architecture that needs most.
        sequences_at_a_time: of one process.
        training_seconds: of all distillations, where all budgets are seconds.
    """

    name: str
    teacher: TeacherShape
    space_size: int
    within_limits: int
    trained: int
    measuring: Measuring
    preparation: TeacherCost
    demands: tuple[DemandCost, ...]
    teacher_once: Mapping[str, float]
    scoring: Flops
    answers: tuple[AnswerPlan, ...]
    disk: tuple[DiskUse, ...]
    memory_of: Architecture
    memory: TrainingMemory
    sequences_at_a_time: int
    rates: tuple[Rates, ...]
    training_seconds: float | None

    @property
    def in_steps(self) -> bool:
        """Whether all budgets are step counts, so that operations are known."""
        return all(demand.steps is not None for demand in self.demands)

    def total(self, savings: Savings) -> Flops:
        """Operations of all distillations whose steps are known, with all scoring."""
        known = (demand.flops[savings] for demand in self.demands if demand.flops is not None)
        return sum(known, self.scoring) + Flops(0.0, self.teacher_once[savings])

    def seconds_on(self, rates: Rates, savings: Savings) -> float:
        """`total` on one device; measuring and the teacher's preparation come on top."""
        work = self.total(savings)
        return work.student / rates.student + work.teacher / rates.teacher
