"""Designs that spread over the space: the start of a search, and latency probes.

Shape legend: N candidates, t points taken already, d features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.exploration.algorithms.surrogates import Candidates
from flashdistill.exploration.space import DesignSpace


def farthest(
    space: DesignSpace,
    taken: Sequence[Architecture],
    pool: Candidates,
    rng: np.random.Generator,
    log_weight: np.ndarray | None = None,
) -> Architecture:
    """The point of the pool that is farthest from all taken ones: a step of a greedy maximin design.

    Ties are broken at random; so is everything while nothing is taken.

    Args:
        pool: N candidates, at least one.
        log_weight: logarithm of a factor on each candidate's distance, [N].
    """
    distances = distances_to(space.encode(taken), pool.features) if taken else np.ones(len(pool))
    worth = distances if log_weight is None else distances * np.exp(log_weight)
    best = np.flatnonzero(worth >= worth.max() - 1e-9)
    return pool.architectures[int(rng.choice(best))]


def distances_to(points: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The distance of each of ``features`` [N, d] to the nearest of ``points`` [t, d]; [N]."""
    squared = np.full(len(features), np.inf)
    for point in points:
        np.minimum(squared, np.square(features - point).sum(axis=1), out=squared)
    return np.sqrt(squared)
