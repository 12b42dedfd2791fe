"""What a point promises, in closed form, from independent normal predictions of the objectives.

Shape legend: N points to score, m objectives, k points of the current front. All values are
oriented: larger is better. A standard deviation of 0 means that the value is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_ndtr, ndtr

from flashdistill.exploration.pareto import non_dominated

_CHUNK = 8192


def expected_excess(mean: np.ndarray, deviation: np.ndarray, level: float) -> np.ndarray:
    """E[max(Y - level, 0)] for Y ~ N(mean, deviation²); the expected improvement. All [N]."""
    distance = mean - level
    with np.errstate(divide="ignore", invalid="ignore"):
        z = distance / deviation
        excess = distance * ndtr(z) + deviation * np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return np.where(deviation > 0, np.maximum(excess, 0.0), np.maximum(distance, 0.0))


def expected_hypervolume_improvement(
    mean: np.ndarray, deviation: np.ndarray, front: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """The exact expected growth of the hypervolume above ``reference``; with m = 1, expected improvement.

    The volume not dominated yet is cut into slabs along the last objective, within each into
    slabs along the one before, and so on. A slab's share is the product over the objectives of
    the expected length of the new point's part in it, which is a difference of expected
    excesses because the objectives are independent.

    Args:
        mean, deviation: [N, m].
        front: [k, m], k may be 0; dominated points do no harm.
        reference: [m].

    Returns:
        [N], non-negative.
    """
    front = front[np.all(front > reference, axis=1)]
    front = front[non_dominated(front)] if len(front) else front
    levels = [np.unique(np.append(front[:, axis], reference[axis])) for axis in range(len(reference))]
    ranks = np.stack([np.searchsorted(levels[axis], front[:, axis]) for axis in range(len(reference))], axis=1)
    parts = []
    for start in range(0, len(mean), _CHUNK):
        rows = slice(start, start + _CHUNK)
        excesses = [
            np.stack([expected_excess(mean[rows, axis], deviation[rows, axis], level) for level in levels[axis]])
            for axis in range(len(reference))
        ]
        parts.append(_undominated_volume(excesses, ranks))
    return np.maximum(np.concatenate(parts), 0.0) if parts else np.zeros(0)


def _undominated_volume(excesses: Sequence[np.ndarray], ranks: np.ndarray) -> np.ndarray:
    """Expected volume below a random point that no point of the front dominates; [N].

    Args:
        excesses: per objective, the expected excess over each level, [levels, N]; level 0 is the
            reference.
        ranks: the level of each point of the front in each objective, int [k, m].
    """
    last = excesses[-1]
    if len(excesses) == 1:
        return last[ranks[:, 0].max() if len(ranks) else 0]
    volume = np.zeros(last.shape[1])
    floor = 0
    for level in np.unique(ranks[:, -1]):
        above = ranks[ranks[:, -1] >= level, :-1]
        volume += (last[floor] - last[level]) * _undominated_volume(excesses[:-1], above)
        floor = level
    return volume + last[floor] * _undominated_volume(excesses[:-1], ranks[:0, :-1])


def log_probability_above(mean: np.ndarray, deviation: np.ndarray, bar: np.ndarray) -> np.ndarray:
    """log P(all objectives reach ``bar`` [m]) for predictions [N, m]; [N].

    In logarithms, so that points stay in order where all probabilities are tiny.
    """
    distance = mean - bar
    with np.errstate(divide="ignore", invalid="ignore"):
        log_probability = log_ndtr(distance / deviation)
    known = np.where(distance >= 0, 0.0, -np.inf)
    return np.where(deviation > 0, log_probability, known).sum(axis=1)


def reference_point(front: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """A point somewhat worse than the worst of the front in every objective, [m].

    The margin is a tenth of the front's range, so that its ends can grow too. Where the front has
    no range, the range of everything observed takes its place.

    Args:
        front: [k, m], k at least 1.
        observed: [n, m], the front's points among them.
    """
    low, high = front.min(axis=0), front.max(axis=0)
    flat = high - low <= 1e-12 * np.maximum(1.0, np.abs(high))
    low = np.where(flat, observed.min(axis=0), low)
    high = np.where(flat, observed.max(axis=0), high)
    span = high - low
    return low - 0.1 * np.where(span > 0, span, np.maximum(np.abs(high), 1e-3))
