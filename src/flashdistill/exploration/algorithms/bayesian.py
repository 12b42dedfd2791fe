"""Bayesian optimisation over a finite design space.

First a space-filling design, until the objectives have enough observations for a model (three:
larger designs were slower to find students that beat the baseline). Then Gaussian processes
predict every metric, and the architecture with the best acquisition value among all that remain
is proposed; among a large sample with local search, where the space is too large to enumerate.

Shape legend: N candidates, m objectives, k points of the current front, d features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import derive_seed, generator
from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.base import Algorithm, untried, untried_table
from flashdistill.exploration.algorithms.gaussian_process import single_thread
from flashdistill.exploration.algorithms.promise import Promise
from flashdistill.exploration.algorithms.surrogates import Candidates, Surrogates
from flashdistill.exploration.pareto import pareto_front
from flashdistill.exploration.space import DesignSpace

_SAMPLE = 20_000
"""Candidates drawn from a space that cannot be enumerated."""

_MAX_DRAWS = 100_000
_CLIMBERS = 8
_MAX_CLIMBS = 30


class BayesianSearch(Algorithm):
    """Expected hypervolume improvement, or the probability of dominating the baseline.

    See `Promise` for the acquisition functions. Trials that are running, and the architectures
    already chosen within one call, count as if they had given what is predicted for them.
    """

    def suggest(self, space: DesignSpace, trials: Sequence[Trial], count: int, seed: int) -> list[Architecture]:
        if count <= 0:
            return []
        pool = Candidates.of(space, self._pool(space, trials, seed))
        if space.enumerable and len(pool) <= count:
            return list(pool.architectures)
        with single_thread():
            return self._choose(space, trials, count, pool, seed)

    def _choose(
        self, space: DesignSpace, trials: Sequence[Trial], count: int, pool: Candidates, seed: int
    ) -> list[Architecture]:
        """One after the other, each as if the ones before were running."""
        metrics = [item.metric for item in (*self.problem.objectives, *self.problem.constraints)]
        surrogates = Surrogates.fit(space, trials, metrics, derive_seed("bayesian search", seed))
        chosen: list[Architecture] = []
        while len(pool) and len(chosen) < count:
            promise = Promise(self.problem, space, surrogates, trials, chosen, pool)
            if promise.ready:
                best = self._most_promising(promise, space, trials, chosen, pool)
            else:
                best = _farthest(promise, space, trials, chosen, pool, seed)
            chosen.append(best)
            pool = pool.without(best)
        return chosen

    def _pool(self, space: DesignSpace, trials: Sequence[Trial], seed: int) -> list[Architecture]:
        """What may be suggested: everything, or a random sample with the front's neighbours."""
        if space.enumerable:
            return untried_table(space, self.problem, trials)
        front = [trial.architecture for trial in pareto_front(trials, self.problem.objectives)]
        near = (other for found in front if found in space for other in space.neighbours(found))
        order = space.shuffled(generator("bayesian pool", seed, len(trials)))
        pool = untried(space, self.problem, trials, dict.fromkeys(near))
        for _ in range(_MAX_DRAWS // _SAMPLE):
            pool.extend(untried(space, self.problem, trials, itertools.islice(order, _SAMPLE)))
            if len(pool) >= _SAMPLE:
                break
        return list(dict.fromkeys(pool))

    def _most_promising(
        self,
        promise: Promise,
        space: DesignSpace,
        trials: Sequence[Trial],
        chosen: Sequence[Architecture],
        pool: Candidates,
    ) -> Architecture:
        scores = promise.scores(pool)
        if space.enumerable:
            return pool.architectures[int(np.argmax(scores))]

        def score(architectures: Sequence[Architecture]) -> np.ndarray:
            return promise.scores(Candidates.of(space, architectures))

        def reachable(architecture: Architecture) -> list[Architecture]:
            near = untried(space, self.problem, trials, space.neighbours(architecture))
            return [other for other in near if other not in chosen]

        start = np.argsort(-scores, kind="stable")[:_CLIMBERS]
        return _climb([pool.architectures[index] for index in start], score, reachable)


def _farthest(
    promise: Promise,
    space: DesignSpace,
    trials: Sequence[Trial],
    chosen: Sequence[Architecture],
    pool: Candidates,
    seed: int,
) -> Architecture:
    """The point of the pool that is farthest from all tried ones: a greedy maximin design.

    The distance is weighed with the probability of satisfying the constraints, once latencies
    are known well enough to tell. Ties are broken at random.
    """
    tried = space.encode([*(trial.architecture for trial in trials), *chosen])
    rng = generator("space-filling design", seed, len(tried))
    if not len(tried):
        return pool.architectures[int(rng.integers(len(pool)))]
    distance = np.full(len(pool), np.inf)
    for point in tried:
        np.minimum(distance, np.square(pool.features - point).sum(axis=1), out=distance)
    worth = np.sqrt(distance) * np.exp(promise.log_feasibility(pool))
    best = np.flatnonzero(worth >= worth.max() - 1e-9)
    return pool.architectures[int(rng.choice(best))]


def _climb(
    start: Sequence[Architecture],
    score: Callable[[Sequence[Architecture]], np.ndarray],
    reachable: Callable[[Architecture], list[Architecture]],
) -> Architecture:
    """Local search: move the best few points to better neighbours until none is better."""
    known = dict(zip(start, score(start), strict=True))
    leaders = list(start)
    for _ in range(_MAX_CLIMBS):
        fresh = [other for other in dict.fromkeys(o for a in leaders for o in reachable(a)) if other not in known]
        if not fresh:
            break
        known.update(zip(fresh, score(fresh), strict=True))
        best = sorted(known, key=lambda architecture: -known[architecture])[:_CLIMBERS]
        if best == leaders:
            break
        leaders = best
    return max(known, key=lambda architecture: known[architecture])
