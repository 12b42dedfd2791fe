"""What another run says about this one: the belief from before the first observation.

Shape legend: n, N architectures, d features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flashdistill.exploration.algorithms.gaussian_process import Belief, GaussianProcess, Observations

MIN_OBSERVATIONS = 3
"""With fewer, and no other run, a metric has no model."""

_SLOPE_VARIANCE = 0.5**2
"""Of the slope between the runs, around 1."""

_ODDS = math.log(4.0)
"""For the other run being of use, before anything is observed: its user believes so."""


@dataclass(frozen=True)
class OtherRun(Belief):
    """This run's values are ``a + b m(x)`` and a deviation of their own.

    The autoregressive model of Kennedy and O'Hagan (2000), "Predicting the output from a complex
    computer code when fast approximations are available", with the other run in the place of the
    fast code: m is its Gaussian process given its own observations, the level a is unknown, the
    slope b is believed to be about 1 and learned. Units are the standard deviations of the other run.

    Attributes:
        process: the other run's, of the same metric.
    """

    process: GaussianProcess

    def mean(self, features: np.ndarray) -> np.ndarray:
        return self._shape(features)

    def covariance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        slope = _SLOPE_VARIANCE * np.outer(self._shape(first), self._shape(second))
        return 1.0 + slope + self.process.covariance(first, second) / self.process.scale**2

    def variance(self, features: np.ndarray) -> np.ndarray:
        mean, deviation = self.process.posterior(features)
        shape = (mean - self.process.centre) / self.process.scale
        return 1.0 + _SLOPE_VARIANCE * np.square(shape) + np.square(deviation / self.process.scale)

    def _shape(self, features: np.ndarray) -> np.ndarray:
        """The other run's predictions in its standard deviations, [n]."""
        mean, _ = self.process.posterior(features)
        return (mean - self.process.centre) / self.process.scale


def fit_process(observations: Observations | None, other: Observations | None = None) -> GaussianProcess | None:
    """The model of one metric; with another run's observations, whichever model explains this run's better.

    Returns:
        None where there is too little to go by: no observation of this run, or fewer than
        `MIN_OBSERVATIONS` and as few of the other.
    """
    count = 0 if observations is None else len(observations)
    if observations is None or not count:
        return None
    alone = GaussianProcess.fit(observations) if count >= MIN_OBSERVATIONS else None
    if other is None or len(other) < MIN_OBSERVATIONS:
        return alone
    process = GaussianProcess.fit(other)
    informed = GaussianProcess.fit(observations, OtherRun(process), process.scale)
    if alone is not None and alone.log_evidence() > informed.log_evidence() + _ODDS:
        return alone
    return informed
