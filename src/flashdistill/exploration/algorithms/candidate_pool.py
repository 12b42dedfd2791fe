"""What may be suggested: the whole space as a table, or a part of one that is too large, and local search in it.

Shape legend: N candidates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from flashdistill.core.architecture import FACTORS, Architecture
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.base import SearchProblem, tried, untried
from flashdistill.exploration.algorithms.lattice import latin_hypercube
from flashdistill.exploration.algorithms.surrogates import Candidates
from flashdistill.exploration.algorithms.vacancies import Vacancies
from flashdistill.exploration.pareto import pareto_front
from flashdistill.exploration.space import DesignSpace

SAMPLE = 10_000
"""Candidates drawn where the space is not scored as a whole."""

_MAX_DRAWS = 40_000

_FEW = 50
"""Fewer of the first `SAMPLE` draws show that it is no use to draw more."""

_CLIMBERS = 8
_MAX_CLIMBS = 50

_AFFORDABLE = 2e9
"""Operations, about two seconds, that scoring the whole space may take with each model."""

_tables: WeakKeyDictionary[DesignSpace, Candidates] = WeakKeyDictionary()


def scored_as_a_whole(space: DesignSpace, trials: Sequence[Trial]) -> bool:
    """Whether every architecture is a candidate; a prediction costs the square of the observations."""
    return space.enumerable and space.size * len(trials) ** 2 <= _AFFORDABLE


def candidate_pool(space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial], seed: int) -> Candidates:
    """All that may be suggested, or a random sample with the surroundings of the current front."""
    if scored_as_a_whole(space, trials):
        return _whole_table(space, problem, trials)
    front = [trial.architecture for trial in pareto_front(trials, problem.objectives)]
    near = (other for found in front if found in space for other in moves(space, found))
    pool = dict.fromkeys(untried(space, problem, trials, dict.fromkeys(near)))
    pool.update(dict.fromkeys(sample(space, problem, trials, generator("bayesian pool", seed, len(trials)))))
    return Candidates.of(space, list(pool))


def sample(
    space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial], rng: np.random.Generator
) -> list[Architecture]:
    """About `SAMPLE` random architectures that may be suggested; fewer where hardly any draw may be.

    Size limits may leave so little of a space that no draw is within them: then the sample
    consists of random positions that were moved into the limits.
    """
    order = space.shuffled(rng)
    found: list[Architecture] = []
    for _ in range(_MAX_DRAWS // SAMPLE):
        found.extend(untried(space, problem, trials, itertools.islice(order, SAMPLE)))
        if len(found) >= SAMPLE or len(found) < _FEW:
            break
    if len(found) < _FEW:
        vacancies = Vacancies(space, problem, trials)
        for position in latin_hypercube(_FEW, space.dimension, rng):
            nearest = vacancies.nearest(position)
            if nearest is None:
                break
            vacancies.take(nearest)
            found.append(nearest)
    return list(dict.fromkeys(found))


def moves(space: DesignSpace, architecture: Architecture) -> list[Architecture]:
    """Architectures that differ in one factor, by 1, 2, 4, ... choices, so that far is near in a long factor.

    Where a bottleneck does not go with the heads, the heads move to the nearest number that does.
    """
    values = {name: getattr(architecture, name) for name in FACTORS}
    found: dict[Architecture, None] = {}
    for name, choices in space.factors.items():
        rank = choices.index(values[name])
        for other in _reachable_ranks(rank, len(choices)):
            moved = replace(architecture, **{name: choices[other]})
            for candidate in _mended(space, moved, name):
                found[candidate] = None
    return list(found)


def climb(
    start: Sequence[Architecture],
    score: Callable[[Sequence[Architecture]], np.ndarray],
    reachable: Callable[[Architecture], Iterable[Architecture]],
) -> Architecture:
    """Local search: move the best few points to better ones within reach until none is better."""
    known = dict(zip(start, score(start), strict=True))
    leaders = list(start)[:_CLIMBERS]
    explored: set[Architecture] = set()
    for _ in range(_MAX_CLIMBS):
        fresh = dict.fromkeys(other for leader in leaders if leader not in explored for other in reachable(leader))
        explored.update(leaders)
        unknown = [other for other in fresh if other not in known]
        if unknown:
            known.update(zip(unknown, score(unknown), strict=True))
        leaders = sorted(known, key=lambda architecture: -known[architecture])[:_CLIMBERS]
        if explored.issuperset(leaders):
            break
    return leaders[0]


def best_by_climbing(
    space: DesignSpace,
    problem: SearchProblem,
    excluded: Iterable[Architecture],
    pool: Candidates,
    scores: np.ndarray,
    score: Callable[[Candidates], np.ndarray],
) -> Architecture:
    """The best architecture that local search finds from the best few of the pool.

    Args:
        excluded: what may not be suggested.
        scores: of the pool, [N].
    """
    taken = set(excluded)
    start = [pool.architectures[index] for index in np.argsort(-scores, kind="stable")[:_CLIMBERS]]

    def reachable(architecture: Architecture) -> list[Architecture]:
        fresh = [other for other in moves(space, architecture) if other not in taken]
        allowed = problem.within_size_limits(space, space.parameters(fresh))
        return [other for other, fits in zip(fresh, allowed, strict=True) if fits]

    return climb(start, lambda found: score(Candidates.of(space, found)), reachable)


def _whole_table(space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial]) -> Candidates:
    if space not in _tables:
        _tables[space] = Candidates(space.table, space.encode(space.table), space.table_parameters)
    table = _tables[space]
    taken = tried(trials)
    allowed = problem.within_size_limits(space, table.parameters)
    kept = [i for i, (a, fits) in enumerate(zip(table.architectures, allowed, strict=True)) if fits and a not in taken]
    return Candidates([table.architectures[i] for i in kept], table.features[kept], table.parameters[kept])


def _reachable_ranks(rank: int, count: int) -> Iterator[int]:
    step = 1
    while step < count:
        yield from (other for other in (rank - step, rank + step) if 0 <= other < count)
        step *= 2


def _mended(space: DesignSpace, architecture: Architecture, moved: str) -> Iterator[Architecture]:
    if architecture in space:
        yield architecture
    elif moved == "bottleneck_size":
        by_distance = sorted(
            space.factors["num_heads"], key=lambda heads: abs(math.log(heads / architecture.num_heads))
        )
        valid = (replace(architecture, num_heads=heads) for heads in by_distance)
        yield from itertools.islice((candidate for candidate in valid if candidate in space), 1)
