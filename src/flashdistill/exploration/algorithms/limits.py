"""What a candidate is held to: the baseline that it is to beat, and the constraints.

Shape legend: N candidates. Values are on the scale of `observations.to_scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashdistill.core.measurement import KNOWN_WITHOUT_MEASURING, Constraint, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.acquisition import log_probability_above
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.observations import to_scale
from flashdistill.exploration.algorithms.surrogates import Candidates, Surrogates


@dataclass(frozen=True)
class Limits:
    """Probabilities of satisfying the constraints and of beating the baseline.

    The baseline's result is as noisy as any other, and what the models say of it is correlated
    with what they say of its neighbours: so a candidate beats it where the difference of the two,
    as the models see it, is positive. A baseline that no model describes (one of another depth)
    counts as measured. Bounds relative to the baseline refer to what was measured of it, as they
    do where trials are judged.
    """

    problem: SearchProblem
    surrogates: Surrogates
    trials: Sequence[Trial]

    @property
    def baseline(self) -> Trial | None:
        """The baseline's trial, or what was measured of it before any."""
        found = [trial for trial in self.trials if trial.architecture == self.problem.baseline]
        return min(found, key=lambda trial: trial.state is TrialState.MEASURED, default=None)

    def can_be_beaten(self, objectives: Sequence[Objective]) -> bool:
        """Whether the baseline's values of these objectives and models for them are there."""
        return all(
            self.surrogates.knows(objective.metric) and self._baseline_value(objective.metric) is not None
            for objective in objectives
        )

    def log_beating(self, candidates: Candidates, objectives: Sequence[Objective]) -> np.ndarray:
        """log P(better than the baseline in all ``objectives``, and the measured constraints hold), [N].

        Only where `can_be_beaten`.
        """
        total = np.zeros(len(candidates))
        implied: list[Constraint] = []
        for objective in objectives:
            bounds = [c for c in self.problem.constraints if _bounds(c, objective) and self._limit(c) is not None]
            implied.extend(bounds)
            margin, deviation = self._margin(objective, bounds, candidates)
            total += log_probability_above(margin[:, None], deviation[:, None], np.zeros(1))
        return total + self.log_feasibility(candidates, [c for c in self.problem.constraints if c not in implied])

    def log_feasibility(self, candidates: Candidates, constraints: Sequence[Constraint] | None = None) -> np.ndarray:
        """log P(the measured constraints hold), [N]; a constraint that has no model yet counts as held."""
        total = np.zeros(len(candidates))
        for constraint in self.problem.constraints if constraints is None else constraints:
            limit = self._limit(constraint)
            if limit is None or constraint.metric in KNOWN_WITHOUT_MEASURING:
                continue
            if not self.surrogates.knows(constraint.metric):
                continue
            sign = -1.0 if constraint.op == "<=" else 1.0
            mean, deviation = self.surrogates.predict(constraint.metric, candidates)
            total += log_probability_above(sign * mean[:, None], deviation[:, None], np.array([sign * limit]))
        return total

    def _margin(
        self, objective: Objective, bounds: Sequence[Constraint], candidates: Candidates
    ) -> tuple[np.ndarray, np.ndarray]:
        """By how much the candidates are better than the baseline and than the bounds: mean and deviation, each [N]."""
        sign, metric = objective.oriented(1.0), objective.metric
        limits = [sign * limit for bound in bounds if (limit := self._limit(bound)) is not None]
        level = self._baseline_value(metric)
        assert level is not None, "only where the baseline can be beaten"
        strictest = max([sign * level, *limits])
        if self._is_modelled(metric) and strictest == sign * level:
            mean, deviation = self.surrogates.predict_excess(metric, candidates, self.problem.baseline)
            return sign * mean, deviation
        mean, deviation = self.surrogates.predict(metric, candidates)
        return sign * mean - strictest, deviation

    def _baseline_value(self, metric: str) -> float | None:
        """What is believed of the baseline, in the light of its neighbours too; None before it is measured."""
        space = self.surrogates.space
        if metric in KNOWN_WITHOUT_MEASURING:
            return to_scale(metric, float(space.parameters([self.problem.baseline])[0]))
        if self.baseline is None or self.baseline.value(metric) is None:
            return None
        if self._is_modelled(metric):
            mean, _ = self.surrogates.predict(metric, Candidates.of(space, [self.problem.baseline]))
            return float(mean[0])
        return to_scale(metric, self.baseline.measurements[metric].value)

    def _is_modelled(self, metric: str) -> bool:
        return self.surrogates.knows(metric) and self.surrogates.space.comparable(self.problem.baseline)

    def _limit(self, constraint: Constraint) -> float | None:
        """The bound on the models' scale; None while the baseline's value is not known."""
        reference = None if self.baseline is None else self.baseline.value(constraint.metric)
        if constraint.relative and reference is None:
            return None
        return to_scale(constraint.metric, max(constraint.limit(reference), 1e-300))


def _bounds(constraint: Constraint, objective: Objective) -> bool:
    """Whether the constraint bounds the objective from its bad side."""
    goal = "minimize" if constraint.op == "<=" else "maximize"
    return Objective(constraint.metric, goal) == objective
