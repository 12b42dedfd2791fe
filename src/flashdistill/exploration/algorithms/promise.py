"""How promising an architecture is, given the predictions and the goal of the search.

Shape legend: N candidates, m objectives, k points of the current front. Objective values are on
the scale of `surrogates.to_scale` and oriented: larger is better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import KNOWN_WITHOUT_MEASURING, Constraint, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.acquisition import (
    expected_hypervolume_improvement,
    log_probability_above,
    reference_point,
)
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.surrogates import Candidates, Surrogates, to_scale
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
        self._problem = problem
        self._objectives = problem.objectives
        self._baseline = next((t for t in trials if t.architecture == problem.baseline), None)
        complete = [t for t in trials if oriented_values(t, problem.objectives) is not None]
        self.ready = bool(complete) and all(surrogates.knows(o.metric) for o in problem.objectives)
        pending = [t.architecture for t in trials if t.state is TrialState.PENDING]
        expected = [a for a in (*pending, *chosen) if space.comparable(a)]
        self._surrogates = surrogates.assuming(Candidates.of(space, expected)) if expected else surrogates
        if self.ready:
            self._prepare(space, complete, expected, pool)

    def _prepare(
        self, space: DesignSpace, complete: Sequence[Trial], expected: Sequence[Architecture], pool: Candidates
    ) -> None:
        """Fix what all candidates are compared with: the bar, the front and the reference point."""
        mean, deviation = self._predictions(pool)
        bar = self._baseline_values() if self._problem.goal == "beat-baseline" else None
        hopeless = bar is None or self._beating(pool, mean, deviation, bar).max() <= _HOPELESS
        self._bar = None if hopeless else bar
        observed = self._observed_values(space, complete, expected)
        self._front = observed[non_dominated(observed)]
        everything = np.vstack([observed, mean])
        self._reference = reference_point(everything[non_dominated(everything)], everything)

    def scores(self, candidates: Candidates) -> np.ndarray:
        """Numbers that are larger for better candidates, comparable between calls, [N]; only where `ready`."""
        mean, deviation = self._predictions(candidates)
        if self._bar is not None:
            return self._beating(candidates, mean, deviation, self._bar)
        gain = expected_hypervolume_improvement(mean, deviation, self._front, self._reference)
        # Where a float cannot tell the gains apart from none, most is learned at the least known.
        tie_break = 1e-300 * (deviation.sum(axis=1) + 1e-7)
        return np.log(gain + tie_break) + self.log_feasibility(candidates)

    def _beating(self, candidates: Candidates, mean: np.ndarray, deviation: np.ndarray, bar: np.ndarray) -> np.ndarray:
        """log P(dominates the baseline and satisfies the measured constraints), [N]."""
        # Bounds on objectives are in the bar already.
        others = [constraint for constraint in self._problem.constraints if not self._in_objectives(constraint)]
        return log_probability_above(mean, deviation, bar) + self.log_feasibility(candidates, others)

    def log_feasibility(self, candidates: Candidates, constraints: Sequence[Constraint] | None = None) -> np.ndarray:
        """log P(the measured constraints hold), [N]; a constraint that has no model yet counts as held."""
        total = np.zeros(len(candidates))
        for constraint in self._problem.constraints if constraints is None else constraints:
            limit = self._limit(constraint)
            if limit is None or constraint.metric in KNOWN_WITHOUT_MEASURING:
                continue
            if not self._surrogates.knows(constraint.metric):
                continue
            sign = -1.0 if constraint.op == "<=" else 1.0
            mean, deviation = self._surrogates.predict(constraint.metric, candidates)
            total += log_probability_above(sign * mean[:, None], deviation[:, None], np.array([sign * limit]))
        return total

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

    def _baseline_values(self) -> np.ndarray | None:
        """What an architecture must reach to dominate the baseline within the constraints, [m]."""
        if self._baseline is None or oriented_values(self._baseline, self._objectives) is None:
            return None
        bar = self._measured(self._baseline)
        for constraint in self._problem.constraints:
            limit = self._limit(constraint)
            if limit is not None and self._in_objectives(constraint):
                axis = [objective.metric for objective in self._objectives].index(constraint.metric)
                bar[axis] = max(bar[axis], self._objectives[axis].oriented(limit))
        return bar

    def _in_objectives(self, constraint: Constraint) -> bool:
        """Whether the constraint bounds an objective from its bad side."""
        goal = "minimize" if constraint.op == "<=" else "maximize"
        return Objective(constraint.metric, goal) in self._objectives

    def _limit(self, constraint: Constraint) -> float | None:
        """The bound on the models' scale; None while the baseline's value is not known."""
        reference = None if self._baseline is None else self._baseline.value(constraint.metric)
        if constraint.relative and reference is None:
            return None
        return to_scale(constraint.metric, max(constraint.limit(reference), 1e-300))
