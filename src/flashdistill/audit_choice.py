"""Which architectures an audit compares: the front, and a spread over what the search tried and the space."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import SearchProblem, untried
from flashdistill.exploration.algorithms.space_filling import distances_to
from flashdistill.exploration.space import DesignSpace

FRONT_SHARE = 0.5
"""Of the places, for the front: there flash decides what is distilled in full. But whoever looks at
the front alone sees only what flash likes, within a narrow range."""

_POOL = 4096
"""Untried architectures that are considered; all of them in a space of the paper's size."""


def architectures_to_audit(
    space: DesignSpace,
    problem: SearchProblem,
    trials: Sequence[Trial],
    front: Sequence[Trial],
    regular: Collection[Architecture],
    count: int,
    seed: int,
) -> list[Architecture]:
    """``count`` architectures, the baseline first; fewer where the space has no more.

    Those distilled in full already come next, because they cost least; then the front, evenly
    along it; then, farthest first, what the search trained; then, farthest first, what it never
    tried. So each further place is spent on what is least like the ones before.

    Args:
        regular: architectures whose regular distillation is known; all of them are taken.
        seed: breaks ties, and draws a sample of a space too large to enumerate.
    """
    trained = [trial.architecture for trial in trials if trial.state is TrialState.COMPLETE]
    chosen = list(dict.fromkeys([problem.baseline, *regular]))
    along = [trial.architecture for trial in front if trial.architecture not in chosen]
    places = min(len(along), max(0, min(count - len(chosen), round(FRONT_SHARE * count))))
    chosen += [along[index] for index in evenly(len(along), places)]
    rng = generator("audit", seed)
    chosen += _farthest(space, chosen, trained, count, rng)
    if len(chosen) < count:
        pool = untried(space, problem, trials, islice(space.shuffled(rng), _POOL))
        chosen += _farthest(space, chosen, pool, count, rng)
    return chosen


def evenly(length: int, count: int) -> list[int]:
    """``count`` distinct indices spread evenly over ``range(length)``, its ends among them from two on."""
    if count <= 0:
        return []
    if count == 1:
        return [length // 2]
    return [round(index * (length - 1) / (count - 1)) for index in range(count)]


def _farthest(
    space: DesignSpace,
    taken: Sequence[Architecture],
    pool: Sequence[Architecture],
    count: int,
    rng: np.random.Generator,
) -> list[Architecture]:
    """Of the pool, one after another the one farthest from all taken before, until there are ``count``."""
    pool = [one for one in dict.fromkeys(pool) if one not in taken]
    found: list[Architecture] = []
    if not pool:
        return found
    features = space.encode(pool)
    distances = distances_to(space.encode(taken), features)
    while len(taken) + len(found) < count and len(found) < len(pool):
        best = int(rng.choice(np.flatnonzero(distances >= distances.max() - 1e-9)))
        found.append(pool[best])
        distances = np.minimum(distances, distances_to(features[[best]], features))
        distances[[pool.index(one) for one in found]] = -1.0
    return found
