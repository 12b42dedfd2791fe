"""How promising an architecture is, given the predictions and the goal of the search.

Shape legend: N candidates, m objectives, k points of the current front. Objective values are on
the scale of `observations.to_scale` and oriented: larger is better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import known_before_training
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.acquisition import expected_hypervolume_improvement, reference_point
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.limits import Limits
from flashdistill.exploration.algorithms.observations import to_scale
from flashdistill.exploration.algorithms.surrogates import Candidates, Surrogates
from flashdistill.exploration.pareto import non_dominated, oriented_values
from flashdistill.exploration.space import DesignSpace

_HOPELESS = np.log(1e-3)
"""Below this probability of beating the baseline everywhere, the search maps the front instead."""


class Promise:
    """Scores candidates; one object per proposal.

    For the goal ``front`` the score is the logarithm of the exact expected hypervolume
    improvement, for ``beat-baseline`` of the probability of dominating the baseline. Either is
    multiplied with the probability of satisfying the measured constraints. Where nothing is
    likely to beat the baseline, ``beat-baseline`` maps the front too.

    The current front consists of predictions for the trained architectures, not of their noisy
    results: otherwise one lucky result would hide what is truly as good. The hypervolume's
    reference point lies below the front that the models predict for the whole space: below the
    observed front, which has few points at first, it would let the search cling to the part of
    the front that it found by chance.

    Attributes:
        ready: whether all objectives can be predicted; without, there are no scores.
    """

    def __init__(
        self,
        problem: SearchProblem,
        space: DesignSpace,
        surrogates: Surrogates,
        trials: Sequence[Trial],
        chosen: Sequence[Architecture],
        pool: Candidates,
    ):
        """
        Args:
            chosen: architectures of this call, pending like the trials of that state.
            pool: what may be proposed; it stands for the whole space.
        """
        self._objectives = problem.objectives
        self._beat_baseline = problem.goal == "beat-baseline"
        pending = [t.architecture for t in trials if t.state is TrialState.PENDING]
        expected = [a for a in (*pending, *chosen) if space.comparable(a)]
        self._surrogates = surrogates.assuming(Candidates.of(space, expected)) if expected else surrogates
        self._limits = Limits(problem, self._surrogates, trials)
        complete = [t for t in trials if oriented_values(t, problem.objectives) is not None]
        self.ready = bool(complete) and all(surrogates.knows(o.metric) for o in problem.objectives)
        self._bar = False
        if not self.ready:
            return
        if self._beat_baseline and self._limits.can_be_beaten(self._objectives):
            self._bar = self._limits.log_beating(pool, self._objectives).max(initial=-np.inf) > _HOPELESS
        if not self._bar:
            self._prepare_front(space, complete, expected, pool)

    def _prepare_front(
        self, space: DesignSpace, complete: Sequence[Trial], expected: Sequence[Architecture], pool: Candidates
    ) -> None:
        """Fix what all candidates are compared with: the front and the reference point."""
        observed = self._observed_values(space, complete, expected)
        self._front = observed[non_dominated(observed)]
        everything = np.vstack([observed, self._predictions(pool)[0]])
        self._reference = reference_point(everything[non_dominated(everything)], everything)

    def scores(self, candidates: Candidates) -> np.ndarray:
        """Numbers that are larger for better candidates, comparable between calls, [N]; only where `ready`."""
        if self._bar:
            return self._limits.log_beating(candidates, self._objectives)
        mean, deviation = self._predictions(candidates)
        gain = expected_hypervolume_improvement(mean, deviation, self._front, self._reference)
        # Where a float cannot tell the gains apart from none, most is learned at the least known.
        tie_break = 1e-300 * (deviation.sum(axis=1) + 1e-7)
        return np.log(gain + tie_break) + self._limits.log_feasibility(candidates)

    def log_worth_training(self, candidates: Candidates) -> np.ndarray:
        """log P(nothing that is known before training speaks against a candidate), [N]; also where not `ready`.

        It satisfies the constraints; and where the baseline is to be beaten, it is better in the
        objectives that are measured before training, as far as there are models of them.
        """
        early = [o for o in self._objectives if known_before_training(o.metric)]
        if self._beat_baseline and early and self._limits.can_be_beaten(early):
            return self._limits.log_beating(candidates, early)
        return self._limits.log_feasibility(candidates)

    def _predictions(self, candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """Oriented mean and deviation of the objectives, each [N, m]."""
        means, deviations = [], []
        for objective in self._objectives:
            mean, deviation = self._surrogates.predict(objective.metric, candidates)
            means.append(objective.oriented(1.0) * mean)
            deviations.append(deviation)
        return np.stack(means, axis=1), np.stack(deviations, axis=1)

    def _observed_values(
        self, space: DesignSpace, complete: Sequence[Trial], expected: Sequence[Architecture]
    ) -> np.ndarray:
        """What is believed of the trained and pending architectures, [n, m]."""
        described = [trial.architecture for trial in complete if space.comparable(trial.architecture)]
        modelled, _ = self._predictions(Candidates.of(space, [*described, *expected]))
        # The baseline may lie outside what the models describe.
        measured = [self._measured(t) for t in complete if not space.comparable(t.architecture)]
        return np.vstack([modelled, *measured])

    def _measured(self, trial: Trial) -> np.ndarray:
        values = [(objective, trial.measurements[objective.metric].value) for objective in self._objectives]
        return np.array([objective.oriented(to_scale(objective.metric, value)) for objective, value in values])
