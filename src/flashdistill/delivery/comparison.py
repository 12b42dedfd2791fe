"""How students compare with the baseline and with each other, in every objective at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Objective
from flashdistill.delivery.record import Measurements


class Scored(Protocol):
    """A trial or a delivered model."""

    @property
    def architecture(self) -> Architecture: ...

    @property
    def measurements(self) -> Measurements: ...

    def value(self, metric: str) -> float | None: ...


S = TypeVar("S", bound=Scored)


def gains(student: Scored, baseline: Scored, objectives: Sequence[Objective]) -> list[float] | None:
    """By how much the student is better in each objective, in its unit; None if one is unknown."""
    result = []
    for objective in objectives:
        value, reference = student.value(objective.metric), baseline.value(objective.metric)
        if value is None or reference is None:
            return None
        result.append(objective.oriented(value) - objective.oriented(reference))
    return result


def beats(student: Scored, baseline: Scored, objectives: Sequence[Objective]) -> bool:
    """Whether the student is strictly better in every objective."""
    differences = gains(student, baseline, objectives)
    return bool(differences) and all(difference > 0 for difference in differences)


def beats_clearly(student: Scored, baseline: Scored, objectives: Sequence[Objective], errors: float = 2.0) -> bool:
    """Whether every gain exceeds ``errors`` standard errors of the difference.

    The two measurements count as independent, which overstates the error where both were taken
    on the same sequences. An unknown standard error counts as zero.
    """
    differences = gains(student, baseline, objectives)
    if not differences:
        return False
    for objective, difference in zip(objectives, differences, strict=True):
        spread = math.hypot(
            *(item.measurements[objective.metric].stderr or 0.0 for item in (student, baseline)),
        )
        if difference <= errors * spread:
            return False
    return True


def headline(winners: int, students: int, where: str) -> str:
    """``3 of 9 students beat the baseline in both objectives``: a title for a plot."""
    if not students:
        return "Only the baseline was evaluated"
    if students == 1:
        return f"The one student {'beats' if winners else 'does not beat'} the baseline in {where}"
    verb = "beat" if winners > 1 else "beats"
    return f"{winners or 'None'} of {students} students {verb} the baseline in {where}"


def best(students: Iterable[S], objective: Objective) -> S | None:
    """The student with the best known value; the first of equals."""
    known = [student for student in students if student.value(objective.metric) is not None]
    return max(known, key=lambda student: objective.oriented(student.value(objective.metric) or 0.0), default=None)


def without_loss(students: Iterable[S], baseline: Scored, objective: Objective) -> list[S]:
    """The students that are at least as good as the baseline in this objective."""
    return [
        student
        for student in students
        if (difference := gains(student, baseline, [objective])) is not None and difference[0] >= 0
    ]


def plot_objectives(objectives: Sequence[Objective]) -> tuple[Objective, Objective] | None:
    """The objectives of the horizontal and the vertical axis; None if there is only one.

    The first two objectives; quality goes up and cost to the right where one is maximised and
    the other minimised, else the first goes up.
    """
    if len(objectives) < 2:
        return None
    first, second = objectives[:2]
    return (first, second) if (first.goal, second.goal) == ("minimize", "maximize") else (second, first)


def staircase(points: Sequence[tuple[float, float]], x: Objective, y: Objective) -> list[tuple[float, float]]:
    """The boundary of what the points dominate, as the corners of a line through them.

    Args:
        points: values of the two objectives, in any order; dominated ones are ignored.
    """
    ordered = sorted(points, key=lambda point: (x.oriented(point[0]), y.oriented(point[1])), reverse=True)
    corners: list[tuple[float, float]] = []
    for point in ordered:
        if corners and y.oriented(point[1]) <= y.oriented(corners[-1][1]):
            continue
        if corners:
            corners.append((point[0], corners[-1][1]))
        corners.append(point)
    return corners
