"""Which architectures of a search are distilled in full."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.constraints import violations
from flashdistill.exploration.pareto import dominates, hypervolume, oriented_values, pareto_front
from flashdistill.exploration.settings import SelectSettings


def select(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    settings: SelectSettings,
    baseline: Architecture,
) -> list[Trial]:
    """The best ``settings.top`` trials of the Pareto front, best first; the baseline is not among them.

    Candidates are complete and satisfy every constraint; the baseline competes for the front if
    it satisfies them too. Those that dominate the baseline go
    first: they are what a search is for. Within each group the next one is always the trial that
    adds the most hypervolume to those already chosen, with each objective scaled to the range of
    the front. So the first is the best compromise, and the following ones spread along the front
    instead of crowding around it. Where a trial was trained with several seeds, their mean counts
    (`Trial.pooled`).

    If the baseline dominates all candidates, the front of the others is used, so that a search
    with any feasible trial always delivers; if nothing is feasible, the result is empty.
    """
    reference = next((t for t in trials if t.architecture == baseline and t.state is TrialState.COMPLETE), None)
    feasible = _feasible(trials, constraints, reference)
    others = [trial for trial in feasible if trial.architecture != baseline]
    front = [trial for trial in pareto_front(feasible, objectives) if trial.architecture != baseline]
    front = front or pareto_front(others, objectives)
    if not front:
        return []
    points = np.array([oriented_values(trial, objectives) for trial in front])
    bar = None if reference is None else oriented_values(reference, objectives)
    winners = [bar is not None and dominates(point, bar) for point in points]
    order = _spread(points, winners, settings.top)
    return [front[index] for index in order]


def _feasible(trials: Sequence[Trial], constraints: Sequence[Constraint], reference: Trial | None) -> list[Trial]:
    limits = {} if reference is None else _values(reference)
    return [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETE and not violations(constraints, _values(trial), limits)
    ]


def _values(trial: Trial) -> dict[str, float]:
    pooled = {metric: trial.pooled(metric) for metric in trial.measurements}
    return {metric: one.value for metric, one in pooled.items() if one is not None}


def _spread(points: np.ndarray, winners: Sequence[bool], count: int) -> list[int]:
    """Greedy choice by hypervolume, winners before the others.

    Args:
        points: oriented front, float [k, m].

    Returns:
        Indices of at most ``count`` points, in the order of choice.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    # A margin below the worst values, so that the ends of the front have a volume too.
    floor = [-0.1] * points.shape[1]
    chosen: list[int] = []
    remaining = list(range(len(points)))
    while remaining and len(chosen) < count:
        preferred = [index for index in remaining if winners[index]] or remaining
        best = max(preferred, key=lambda index: (hypervolume(scaled[[*chosen, index]], floor), -index))
        chosen.append(best)
        remaining.remove(best)
    return chosen
