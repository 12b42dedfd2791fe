"""What the drawn and the interactive Pareto front both show, in the units of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.comparison import beats, headline, plot_objectives, staircase
from flashdistill.delivery.formatting import axis_scale, metric_name
from flashdistill.delivery.record import DeliveredModel, Measurements, RunRecord
from flashdistill.delivery.winners import over_seeds


@dataclass(frozen=True)
class Point:
    """A student with both coordinates; the errors are standard errors, zero where unknown."""

    architecture: Architecture
    x: float
    y: float
    x_error: float
    y_error: float


@dataclass(frozen=True)
class Stopped:
    """A student whose distillation ended early, where it was scored last.

    Attributes:
        share: of the distillation's steps that were done then.
    """

    trial: Trial
    point: Point
    share: float


@dataclass(frozen=True)
class FrontData:
    """The contents of the plot; architectures trained from several seeds stand at their means.

    Attributes:
        others: evaluated trials, neither the baseline nor on the front.
        front: trials on the front; the baseline is among them if it is on it.
        single_seeds: of the architectures trained several times, the point of each training.
        stopped: students whose distillation ended early.
        untrained: other trials known in the horizontal objective only, with that value.
        moves: delivered models with their points after the search, where known, and at the end.
        limits: of the axes, (x low, x high, y low, y high).
        winners: evaluated students that beat the baseline in every objective.
    """

    x: Objective
    y: Objective
    others: list[tuple[Trial, Point]]
    front: list[tuple[Trial, Point]]
    baseline: Point | None
    baseline_trial: Trial | None
    single_seeds: list[Point]
    stopped: list[Stopped]
    untrained: list[tuple[Trial, float]]
    moves: list[tuple[DeliveredModel, Point | None, Point]]
    limits: tuple[float, float, float, float]
    winners: int

    @property
    def staircase(self) -> list[tuple[float, float]]:
        """The corners of the front's line."""
        return staircase([(point.x, point.y) for _, point in self.front], self.x, self.y)

    @property
    def bottom(self) -> float:
        """The height at which stands what has no height, or one below the plot."""
        low, high = self.limits[2:]
        return low + 0.02 * (high - low)

    def inside(self, point: Point) -> tuple[float, float]:
        """Where a point is drawn: at the edge of the plot if it lies beyond."""
        x_low, x_high, _, y_high = self.limits
        return min(max(point.x, x_low), x_high), min(max(point.y, self.bottom), y_high)

    @property
    def worst_corner(self) -> tuple[float, float]:
        """The corner of the axes where both objectives are worst."""
        x_low, x_high, y_low, y_high = self.limits
        return (
            x_high if self.x.goal == "minimize" else x_low,
            y_low if self.y.goal == "maximize" else y_high,
        )

    @property
    def title(self) -> str:
        """What is seen, as a headline."""
        if self.baseline is None:
            return f"{len(self.front)} of {len(self.front) + len(self.others)} students are on the Pareto front"
        students = len({trial.number for trial, _ in (*self.front, *self.others)} - {0})
        return headline(self.winners, students, "both objectives")

    @property
    def alt(self) -> str:
        return (
            f"Scatter plot of {metric_name(self.y.metric)} against {metric_name(self.x.metric)}: {self.title}; "
            f"{len(self.front)} on the front, {len(self.moves)} delivered, {len(self.stopped)} stopped early, "
            f"{len(self.untrained)} not evaluated."
        )


def front_data(record: RunRecord) -> FrontData | None:
    """What there is to plot; None with fewer than two objectives or without an evaluated trial."""
    axes = plot_objectives(record.objectives)
    means = [over_seeds(trial) for trial in record.evaluated]
    evaluated = [(trial, _point(trial.architecture, trial.measurements, *axes)) for trial in means] if axes else []
    known = [(trial, point) for trial, point in evaluated if point is not None]
    if axes is None or not known:
        return None
    x, y = axes
    on_front = set(record.front)
    stopped = [one for trial in record.trials if (one := _stopped(trial, x, y)) is not None]
    drawn = {one.trial.number for one in stopped}
    untrained = [
        (trial, value * axis_scale(x.metric))
        for trial in record.trials
        if trial.value(y.metric) is None and trial.number not in drawn and (value := trial.value(x.metric)) is not None
    ]
    moves = [
        (model, _point(model.architecture, model.flash_measurements, x, y), end)
        for model in record.delivered
        if (end := _point(model.architecture, model.measurements, x, y)) is not None
    ]
    baseline = next((trial for trial, _ in known if trial.number == 0), None)
    winners = 0 if baseline is None else sum(beats(t, baseline, record.objectives) for t, _ in known if t.number)
    single_seeds = _single_seeds(record, x, y)
    points = [point for _, point in known] + [point for _, *pair in moves for point in pair if point] + single_seeds
    return FrontData(
        x,
        y,
        others=[(trial, point) for trial, point in known if trial.number and trial.number not in on_front],
        front=[(trial, point) for trial, point in known if trial.number in on_front],
        baseline=next((point for trial, point in known if trial.number == 0), None),
        baseline_trial=baseline,
        single_seeds=single_seeds,
        stopped=stopped,
        untrained=untrained,
        moves=moves,
        limits=_limits(points, [value for _, value in untrained], [one.point for one in stopped]),
        winners=winners,
    )


def _stopped(trial: Trial, x: Objective, y: Objective) -> Stopped | None:
    """Where a student stood when its distillation ended early; None for any other trial."""
    if trial.state is not TrialState.STOPPED or not trial.curve:
        return None
    share = max(trial.curve)
    point = _point(trial.architecture, {**trial.measurements, **trial.curve[share]}, x, y)
    return None if point is None else Stopped(trial, point, share)


def _single_seeds(record: RunRecord, x: Objective, y: Objective) -> list[Point]:
    runs = [
        (trial.architecture, {**trial.measurements, **again})
        for trial in record.evaluated
        if trial.confirmations
        for again in ({}, *trial.confirmations)
    ]
    points = [_point(architecture, measurements, x, y) for architecture, measurements in runs]
    return [point for point in points if point is not None]


def _point(architecture: Architecture, measurements: Measurements, x: Objective, y: Objective) -> Point | None:
    across, up = measurements.get(x.metric), measurements.get(y.metric)
    if across is None or up is None:
        return None
    x_scale, y_scale = axis_scale(x.metric), axis_scale(y.metric)
    return Point(
        architecture,
        across.value * x_scale,
        up.value * y_scale,
        (across.stderr or 0.0) * x_scale,
        (up.stderr or 0.0) * y_scale,
    )


def _limits(
    points: Sequence[Point], untrained: Sequence[float], stopped: Sequence[Point]
) -> tuple[float, float, float, float]:
    """Room for all points; those that were not fully trained widen the plot by half at most."""
    x_low, x_high = _span([p.x - p.x_error for p in points], [p.x + p.x_error for p in points])
    y_low, y_high = _span([p.y - p.y_error for p in points], [p.y + p.y_error for p in points])
    x_low, x_high = _widened(x_low, x_high, [*untrained, *(point.x for point in stopped)])
    y_low, y_high = _widened(y_low, y_high, [point.y for point in stopped])
    width, height = x_high - x_low, y_high - y_low
    return (x_low - 0.07 * width, x_high + 0.07 * width, y_low - 0.12 * height, y_high + 0.10 * height)


def _widened(low: float, high: float, values: Sequence[float]) -> tuple[float, float]:
    """Holding those of the values that lie within half the width on either side."""
    room = 0.5 * (high - low)
    near = [value for value in values if low - room <= value <= high + room]
    return min([low, *near]), max([high, *near])


def _span(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest value, some way apart even if there is only one value."""
    low, high = min(lows), max(highs)
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-9):
        return low, high
    room = 0.1 * abs(high) or 1.0
    return low - room, high + room
