"""How well the models of a search predict: each result against what it would have been predicted to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau

from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.gaussian_process import single_thread
from flashdistill.exploration.algorithms.observations import is_logarithmic, observe
from flashdistill.exploration.algorithms.surrogates import Surrogates
from flashdistill.exploration.space import DesignSpace


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out predictions of one metric for n observed architectures, in the metric's unit.

    Attributes:
        metric: its name.
        observed: what was measured, the mean over the seeds, [n].
        predicted: what the model predicts of each from all others, [n].
        deviation: standard deviation of the prediction's error, the noise of ``observed``
            included, [n]; of a logarithmic metric to first order.
        logarithmic: the model predicts the logarithm; the properties compare logarithms then.
    """

    metric: str
    observed: np.ndarray
    predicted: np.ndarray
    deviation: np.ndarray
    logarithmic: bool = False

    def __len__(self) -> int:
        return len(self.observed)

    @property
    def r2(self) -> float:
        """Share of the variance that is predicted; 0 or less is no better than the mean, 0 also without variance."""
        observed, predicted, _ = self._on_scale()
        total = float(np.square(observed - observed.mean()).sum())
        return 1.0 - float(np.square(observed - predicted).sum()) / total if total > 0 else 0.0

    @property
    def tau(self) -> float:
        """Kendall's rank correlation (tau-b) of observed and predicted; 0 where there is no order."""
        if len(np.unique(self.observed)) < 2 or len(np.unique(self.predicted)) < 2:
            return 0.0
        return float(kendalltau(self.observed, self.predicted).statistic)  # type: ignore[union-attr]

    @property
    def within_two(self) -> float:
        """Share of the observations within two deviations of their prediction; about 0.95 of honest ones."""
        observed, predicted, deviation = self._on_scale()
        return float(np.mean(np.abs(observed - predicted) <= 2.0 * deviation))

    def _on_scale(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three arrays on the model's scale."""
        if not self.logarithmic:
            return self.observed, self.predicted, self.deviation
        return np.log(self.observed), np.log(self.predicted), self.deviation / self.predicted


def leave_one_out(space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial]) -> Mapping[str, LeaveOneOut]:
    """By metric of the objectives and constraints, how well its model predicts what it has not seen.

    In closed form from one fit: the hyper-parameters have seen all observations. Trials that
    ended early inform the models and are not among the observations; metrics without a model
    (too few observations, or known exactly) are left out.

    Args:
        trials: of the study, probes too.
    """
    metrics = [item.metric for item in (*problem.objectives, *problem.constraints)]
    found = {}
    with single_thread():
        for metric, model in Surrogates.fit(space, trials, metrics, problem.prior).models.items():
            mean, deviation = model.leave_one_out()
            measured = np.array([not observation.extrapolated for observation in observe(space, trials, metric)])
            value = np.array([observation.value for observation in observe(space, trials, metric)])
            logarithmic = is_logarithmic(metric)
            if logarithmic:
                value, mean = np.exp(value), np.exp(mean)
                deviation = deviation * mean
            found[metric] = LeaveOneOut(metric, value[measured], mean[measured], deviation[measured], logarithmic)
    return found
