"""How well a search is going, as figures: `search_health` fills `flashdistill.core.health`.

Shape legend: n points, m objectives. Points are oriented: larger is better in every column.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from flashdistill.core.health import Noise, PredictionQuality, Reason, SearchHealth
from flashdistill.core.measurement import Objective, known_before_training
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import SearchProblem, tried
from flashdistill.exploration.algorithms.model_quality import LeaveOneOut, leave_one_out
from flashdistill.exploration.constraints import violations
from flashdistill.exploration.pareto import dominates, hypervolume, oriented_values
from flashdistill.exploration.seed_noise import seed_deviation
from flashdistill.exploration.space import DesignSpace

_log = logging.getLogger(__name__)

_SEED_FREEDOM = 2
"""Degrees of freedom from which on the scatter between seeds is trusted more than standard errors."""

_FLOOR_MARGIN = 0.1
"""How far below the worst values, in ranges, the hypervolume begins: the ends of the front count too."""


def search_health(space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial]) -> SearchHealth:
    """The health of the search that made these trials.

    Fits the models of the Bayesian search once, whatever algorithm suggested: they say how well
    the space can be predicted from what was tried.

    Args:
        trials: of the study, trial 0 being the baseline, and what was only measured
            (`TrialState.MEASURED`).
    """
    ordered = sorted(trials, key=lambda trial: trial.number)
    students = [trial for trial in ordered if trial.number != 0]
    return SearchHealth(
        counts=dict(Counter(str(trial.state) for trial in students)),
        broken=_broken(problem, ordered),
        failures=_failures(trial for trial in students if trial.state is TrialState.FAILED),
        unmoved=_unmoved(ordered, problem.objectives),
        untried=_untried(space, problem, ordered),
        predictions=_predictions(space, problem, ordered),
        noise=[noise for objective in problem.objectives if (noise := _noise(ordered, objective.metric)) is not None],
    )


def hypervolume_history(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[float | None]:
    """The hypervolume after each trial, in their order, as a share of the final one.

    It is measured above a point slightly worse than the worst values seen. None before the first
    complete trial; no values at all without two objectives and a complete trial.
    """
    points = [oriented_values(trial, objectives) for trial in trials]
    known = [point for point in points if point is not None]
    if len(objectives) < 2 or not known:
        return []
    array = np.array(known)
    low, high = array.min(axis=0), array.max(axis=0)
    floor = low - _FLOOR_MARGIN * np.where(high > low, high - low, 1.0)
    history: list[float | None] = []
    front: list[tuple[float, ...]] = []
    volume: float | None = None
    for point, arrived in zip(points, _arrivals(points), strict=True):
        if arrived and point is not None:
            front = [other for other in front if not dominates(point, other)] + [point]
            volume = hypervolume(np.array(front), floor)
        history.append(volume)
    final = history[-1] or 1.0
    return [None if volume is None else volume / final for volume in history]


def _arrivals(points: Iterable[tuple[float, ...] | None]) -> Iterator[bool]:
    """For each point, None being a trial without one, whether it comes onto the front of those so far."""
    front: list[tuple[float, ...]] = []
    for point in points:
        arrived = point is not None and not any(dominates(other, point) or other == point for other in front)
        if arrived and point is not None:
            front = [other for other in front if not dominates(point, other)] + [point]
        yield arrived


def _unmoved(trials: Sequence[Trial], objectives: Sequence[Objective]) -> int:
    count = 0
    for trial, arrived in zip(trials, _arrivals(oriented_values(t, objectives) for t in trials), strict=True):
        if arrived:
            count = 0
        elif trial.number > 0 and trial.state in (TrialState.COMPLETE, TrialState.STOPPED):
            count += 1
    return count


def _broken(problem: SearchProblem, trials: Sequence[Trial]) -> dict[str, int]:
    baseline = next((trial for trial in trials if trial.number == 0), None)
    reference = {} if baseline is None else {name: item.value for name, item in baseline.measurements.items()}
    count: Counter[str] = Counter()
    for trial in trials:
        if trial.number == 0 or trial.state is not TrialState.INFEASIBLE:
            continue
        values = {name: item.value for name, item in trial.measurements.items()}
        known = [limit for limit in problem.constraints if limit.metric in reference or not limit.relative]
        count.update(str(limit) for limit in known if violations([limit], values, reference))
    return dict(count.most_common())


def _failures(failed: Iterable[Trial]) -> list[Reason]:
    """Reasons that differ in numbers alone (a step, an architecture, a size) count as one."""
    alike: dict[str, list[Trial]] = {}
    for trial in failed:
        alike.setdefault(re.sub(r"\d[\d_.,]*(?:e[+-]?\d+)?", "#", trial.reason), []).append(trial)
    reasons = [Reason(group[0].reason, len(group), group[0].architecture) for group in alike.values()]
    return sorted(reasons, key=lambda reason: -reason.count)


def _untried(space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial]) -> int:
    """About as many where the space is too large to count."""
    allowed = space.profile(problem.constraints, problem.baseline).within_limits
    inside = [architecture for architecture in tried(trials) if architecture in space]
    counts = space.parameters(inside)
    return max(0, allowed - int(problem.within_size_limits(space, counts).sum()))


def _predictions(space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial]) -> list[PredictionQuality]:
    try:
        return [_prediction(one) for one in leave_one_out(space, problem, trials).values()]
    except (RuntimeError, ValueError) as error:
        # A model that cannot be fitted is no reason to end a run without a report.
        _log.warning("the predictions of the search cannot be judged: %s", error)
        return []


def _prediction(one: LeaveOneOut) -> PredictionQuality:
    if one.logarithmic:
        factor = np.exp(2.0 * one.deviation / one.predicted)
        low, high = one.predicted / factor, one.predicted * factor
    else:
        low, high = one.predicted - 2.0 * one.deviation, one.predicted + 2.0 * one.deviation
    return PredictionQuality(
        metric=one.metric,
        observed=one.observed.tolist(),
        predicted=one.predicted.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        logarithmic=one.logarithmic,
        r2=_finite(one.r2),
        tau=_finite(one.tau),
        within_two=float(one.within_two),
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _noise(trials: Sequence[Trial], metric: str) -> Noise | None:
    """The scatter between seeds where training matters and seeds were repeated, else the standard errors."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and metric in trial.measurements]
    if len(complete) < 2:
        return None
    values = [trial.measurements[metric].value for trial in complete]
    span = max(values) - min(values)
    runs = [trial.seeds(metric) for trial in complete if trial.seeds(metric) > 1]
    if not known_before_training(metric) and sum(runs) - len(runs) >= _SEED_FREEDOM:
        return Noise(metric, seed_deviation(complete, metric) or 0.0, span, "seeds", sum(runs))
    errors = [error for trial in complete if (error := trial.measurements[metric].stderr) is not None]
    if not errors:
        return None
    return Noise(metric, float(np.sqrt(np.mean(np.square(errors)))), span, "standard errors", len(errors))
