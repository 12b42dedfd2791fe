"""Which architectures to measure before the search, without training them."""

from __future__ import annotations

import itertools

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import generator
from flashdistill.exploration.algorithms.base import SearchProblem, untried
from flashdistill.exploration.algorithms.candidate_pool import candidate_pool
from flashdistill.exploration.algorithms.space_filling import distances_to
from flashdistill.exploration.algorithms.surrogates import Candidates
from flashdistill.exploration.space import DesignSpace


def probe_design(space: DesignSpace, problem: SearchProblem, count: int, seed: int) -> list[Architecture]:
    """Up to ``count`` architectures within the size limits, as far from each other as can be.

    The smallest and the largest come first; each following one is the farthest from those before
    and from the baseline, which is measured anyway and never among them. So any first part of
    the design is a design too. Of a space too large to enumerate, its corners and a random sample
    are considered.

    Args:
        seed: breaks ties, and draws the sample.
    """
    pool = candidate_pool(space, problem, (), seed)
    if not space.enumerable:
        corners = untried(space, problem, (), _corners(space))
        pool = Candidates.of(space, list(dict.fromkeys([*corners, *pool.architectures])))
    if problem.baseline in pool.architectures:
        pool = pool.without(problem.baseline)
    if not len(pool) or count <= 0:
        return []
    rng = generator("latency probes", seed)
    chosen = list(dict.fromkeys([int(np.argmin(pool.parameters)), int(np.argmax(pool.parameters))]))[:count]
    known = [space.encode([problem.baseline])] if space.comparable(problem.baseline) else []
    distances = distances_to(np.concatenate([*known, pool.features[chosen]]), pool.features)
    while len(chosen) < min(count, len(pool)):
        # What is chosen is out, also where all that remains has the features of something chosen.
        distances[chosen] = -1.0
        best = int(rng.choice(np.flatnonzero(distances >= distances.max() - 1e-9)))
        chosen.append(best)
        distances = np.minimum(distances, distances_to(pool.features[[best]], pool.features))
    return [pool.architectures[index] for index in chosen]


def _corners(space: DesignSpace) -> list[Architecture]:
    """The valid architectures with an extreme choice in every factor."""
    ends = [(choices[0], choices[-1]) for choices in space.factors.values()]
    corners = (Architecture(**dict(zip(space.factors, values, strict=True))) for values in itertools.product(*ends))
    return [corner for corner in dict.fromkeys(corners) if corner in space]
