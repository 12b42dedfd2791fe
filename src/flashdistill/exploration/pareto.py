"""Pareto dominance, the front of a study, and exact hypervolume, for any number of objectives.

Shape legend: n points, k of them on the front, m objectives. Points are *oriented*: larger is
better in every column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flashdistill.core.measurement import Objective
from flashdistill.core.trial import Trial, TrialState


def oriented_values(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The trial's objective values, larger is better; None unless complete with finite values.

    Where a trial was trained with several seeds, their means.
    """
    if trial.state is not TrialState.COMPLETE:
        return None
    found = [trial.pooled(objective.metric) for objective in objectives]
    if any(one is None or not math.isfinite(one.value) for one in found):
        return None
    return tuple(
        objective.oriented(one.value) for objective, one in zip(objectives, found, strict=True) if one is not None
    )


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether oriented ``first`` is nowhere worse than ``second`` and somewhere better."""
    pairs = list(zip(first, second, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def pareto_front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The trials that no other dominates, in the order of their numbers.

    Only complete trials with finite values compete; of several with equal values the earliest
    is kept.
    """
    candidates = sorted(
        ((trial, values) for trial in trials if (values := oriented_values(trial, objectives)) is not None),
        key=lambda candidate: candidate[0].number,
    )
    if not candidates:
        return []
    kept = non_dominated(np.array([values for _, values in candidates]))
    return [candidates[index][0] for index in kept]


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Indices of the points on the front, ascending; of equal points the first is kept.

    Args:
        points: oriented and finite, float [n, m].

    Returns:
        int [k].
    """
    if not len(points):
        return np.empty(0, dtype=int)
    # Best first: whatever dominates a point precedes it in lexicographic order.
    left = np.lexsort((np.arange(len(points)), *-points.T[::-1]))
    if points.shape[1] == 2:
        second = points[left, 1]
        best_before = np.concatenate([[-np.inf], np.maximum.accumulate(second)[:-1]])
        return np.sort(left[second > best_before])
    kept: list[int] = []
    while len(left):
        kept.append(int(left[0]))
        left = left[np.any(points[left] > points[left[0]], axis=1)]
    return np.array(sorted(kept), dtype=int)


def hypervolume(points: np.ndarray, reference: Sequence[float] | np.ndarray) -> float:
    """The volume that the points dominate above a reference point, exactly.

    The volume is cut into slabs along the last objective; within a slab it is a hypervolume with
    one objective fewer.

    Args:
        points: oriented, float [n, m]; points that do not exceed the reference contribute nothing.
        reference: oriented, m values.
    """
    points = np.asarray(points, dtype=float).reshape(-1, len(reference))
    heights = points - np.asarray(reference, dtype=float)
    heights = heights[np.all(heights > 0, axis=1)]
    return _volume_above_origin(heights)


def _volume_above_origin(points: np.ndarray) -> float:
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    volume, floor = 0.0, 0.0
    for level in np.unique(points[:, -1]):
        volume += (level - floor) * _volume_above_origin(points[points[:, -1] >= level, :-1])
        floor = float(level)
    return volume
