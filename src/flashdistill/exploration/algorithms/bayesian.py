"""Bayesian optimisation over a finite design space.

First a space-filling design, until the objectives have enough observations for a model (three:
larger designs were slower to find students that beat the baseline; with the trials of another run
the models are there at once). Then Gaussian processes predict every metric, and the architecture
with the best acquisition value among all that remain is proposed; among a large sample with local
search, where the space is too large to score as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.base import Algorithm, tried
from flashdistill.exploration.algorithms.candidate_pool import best_by_climbing, candidate_pool, scored_as_a_whole
from flashdistill.exploration.algorithms.gaussian_process import single_thread
from flashdistill.exploration.algorithms.promise import Promise
from flashdistill.exploration.algorithms.space_filling import farthest
from flashdistill.exploration.algorithms.surrogates import Candidates, Surrogates
from flashdistill.exploration.space import DesignSpace


class BayesianSearch(Algorithm):
    """Expected hypervolume improvement, or the probability of dominating the baseline.

    See `Promise` for the acquisition functions. Trials that are running, and the architectures
    already chosen within one call, count as if they had given what is predicted for them.
    """

    def suggest(self, space: DesignSpace, trials: Sequence[Trial], count: int, seed: int) -> list[Architecture]:
        if count <= 0:
            return []
        pool = candidate_pool(space, self.problem, trials, seed)
        if scored_as_a_whole(space, trials) and len(pool) <= count:
            return list(pool.architectures)
        with single_thread():
            return self._choose(space, trials, count, pool, seed)

    def _choose(
        self, space: DesignSpace, trials: Sequence[Trial], count: int, pool: Candidates, seed: int
    ) -> list[Architecture]:
        """One after the other, each as if the ones before were running."""
        metrics = [item.metric for item in (*self.problem.objectives, *self.problem.constraints)]
        surrogates = Surrogates.fit(space, trials, metrics, self.problem.prior)
        taken = sorted(tried(trials))
        whole = scored_as_a_whole(space, trials)
        chosen: list[Architecture] = []
        while len(pool) and len(chosen) < count:
            promise = Promise(self.problem, space, surrogates, trials, chosen, pool)
            if not promise.ready:
                rng = generator("space-filling design", seed, len(taken) + len(chosen))
                best = farthest(space, [*taken, *chosen], pool, rng, promise.log_worth_training(pool))
            elif whole:
                best = pool.architectures[int(np.argmax(promise.scores(pool)))]
            else:
                excluded = [*taken, *chosen]
                best = best_by_climbing(space, self.problem, excluded, pool, promise.scores(pool), promise.scores)
            chosen.append(best)
            pool = pool.without(best)
        return chosen
