"""A Gaussian process on encoded architectures: exact inference, any knowledge from before.

Shape legend: n observations, N query points, d features in [0, 1].
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from threadpoolctl import threadpool_limits

from flashdistill.exploration.algorithms.kernel import Evidence, Hyperparameters, fit

_MIN_NOISE = 1e-6
"""Smallest noise variance of an observation, in units of the observations' variance."""

_CHUNK = 4096

_REFIT_ALWAYS = 40
_REFIT_GROWTH = 1.08


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Compute on one thread: with matrices this small, threads that wait for a busy core cost ten times the work."""
    with threadpool_limits(1, user_api="blas"):
        yield


def fitted_count(observations: int) -> int:
    """How many of the first observations the hyper-parameters are fitted to.

    All up to 40; from there on new ones are taken in whenever their number has grown by 8 %.
    A function of the number alone, so a resumed search has the same models.
    """
    count = _REFIT_ALWAYS
    if observations <= count:
        return observations
    while (following := math.ceil(count * _REFIT_GROWTH)) <= observations:
        count = following
    return count


class Belief(ABC):
    """What is believed of standardised values before any is observed: a Gaussian process without hyper-parameters."""

    @abstractmethod
    def mean(self, features: np.ndarray) -> np.ndarray:
        """[N]."""

    @abstractmethod
    def covariance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """[n, N]."""

    @abstractmethod
    def variance(self, features: np.ndarray) -> np.ndarray:
        """The diagonal of `covariance`, [N]."""


class UnknownLevel(Belief):
    """A constant that is known to within the spread of the observations."""

    def mean(self, features: np.ndarray) -> np.ndarray:
        return np.zeros(len(features))

    def covariance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.ones((len(first), len(second)))

    def variance(self, features: np.ndarray) -> np.ndarray:
        return np.ones(len(features))


@dataclass(frozen=True)
class Observations:
    """Values of one metric with what is known of their errors.

    Attributes:
        features: [n, d].
        values: [n].
        variances: of the measured errors, [n]; 0 where none is known.
        repeats: how many training runs or measurements each value is the mean of, [n].
    """

    features: np.ndarray
    values: np.ndarray
    variances: np.ndarray
    repeats: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process; immutable, in float64.

    The sum of a belief from before and a Matérn 5/2 process with one length scale per feature.
    Two noises add up: each observation's own, which was measured, and a common one, which is
    learned, because a standard error knows nothing of the variation between training seeds or
    between days of a machine.

    Attributes:
        hyperparameters: of the Matérn part and of the common noise.
        belief: from before the observations.
        features: [n, d].
        targets: standardised observations, [n].
        noise: variance of each standardised observation, both parts, [n].
        centre, scale: undo the standardisation.
    """

    hyperparameters: Hyperparameters
    belief: Belief
    features: np.ndarray
    targets: np.ndarray
    noise: np.ndarray
    centre: float
    scale: float

    @classmethod
    def fit(
        cls, observations: Observations, belief: Belief | None = None, scale: float | None = None
    ) -> GaussianProcess:
        """Fit the hyper-parameters on the schedule of `fitted_count`, then take in all observations.

        Args:
            observations: at least one, of at least one feature.
            belief: an unknown level, if None.
            scale: the unit of the standardised values; the observations' standard deviation, if None.
        """
        count = fitted_count(len(observations))
        fitted = observations.values[:count]
        centre = float(fitted.mean())
        if scale is None:
            spread = float(fitted.std())
            scale = spread if spread > 1e-12 * max(1.0, abs(centre)) else 1.0
        belief = belief or UnknownLevel()
        features = observations.features
        targets = (observations.values - centre) / scale
        known = np.maximum(observations.variances / scale**2, _MIN_NOISE)
        evidence = Evidence(
            features[:count],
            (targets - belief.mean(features))[:count],
            known[:count],
            observations.repeats[:count],
            belief.covariance(features[:count], features[:count]),
        )
        hyperparameters = fit(evidence)
        noise = known + hyperparameters.noise / observations.repeats
        return cls(hyperparameters, belief, features, targets, noise, centre, scale)

    def posterior(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the noise-free values at ``features`` [N, d]; each [N]."""
        mean, variance = np.empty(len(features)), np.empty(len(features))
        for start in range(0, len(features), _CHUNK):
            rows = slice(start, start + _CHUNK)
            mean[rows], variance[rows], _ = self._standard_posterior(features[rows])
        return self.centre + self.scale * mean, self.scale * np.sqrt(variance)

    def excess(self, features: np.ndarray, anchor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the value at each of ``features`` [N, d] less that at ``anchor`` [d]; [N].

        The two are correlated: near the anchor the difference is known better than either.
        """
        mean, variance = np.empty(len(features)), np.empty(len(features))
        (level,), (doubt,), anchored = self._standard_posterior(anchor[None])
        for start in range(0, len(features), _CHUNK):
            rows = slice(start, start + _CHUNK)
            here, own, explained = self._standard_posterior(features[rows])
            common = self._prior_covariance(features[rows], anchor[None])[:, 0] - explained.T @ anchored[:, 0]
            mean[rows] = here - level
            variance[rows] = np.maximum(own + doubt - 2.0 * common, 1e-12)
        return self.scale * mean, self.scale * np.sqrt(variance)

    def covariance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Of the noise-free values at [n, d] and [N, d] given the observations; [n, N]."""
        explained = self._explained(first).T @ self._explained(second)
        return self.scale**2 * (self._prior_covariance(first, second) - explained)

    def with_fantasies(self, features: np.ndarray) -> GaussianProcess:
        """The same process as if its own means had been observed at ``features`` [k, d].

        The mean stays, the uncertainty around these points shrinks: so several workers are not
        sent to the same spot.
        """
        if not len(features):
            return self
        mean, _ = self.posterior(features)
        return replace(
            self,
            features=np.concatenate([self.features, features]),
            targets=np.concatenate([self.targets, (mean - self.centre) / self.scale]),
            noise=np.concatenate([self.noise, np.full(len(features), np.median(self.noise))]),
        )

    def leave_one_out(self) -> tuple[np.ndarray, np.ndarray]:
        """What each observation would be predicted to be without it: mean and deviation with its noise, each [n].

        In closed form for the hyper-parameters as they are (Rasmussen and Williams 2006, eq. 5.12).
        """
        precision = np.diagonal(cho_solve((self._factor, True), np.eye(len(self.targets))))
        mean = self.targets - self._weights / precision
        return self.centre + self.scale * mean, self.scale / np.sqrt(precision)

    def log_evidence(self) -> float:
        """log p(observations), in the observations' unit."""
        residuals = self.targets - self.belief.mean(self.features)
        log_determinant = 2.0 * float(np.log(np.diagonal(self._factor)).sum())
        size = len(self.targets)
        standard = -0.5 * (float(residuals @ self._weights) + log_determinant + size * math.log(2.0 * math.pi))
        return standard - size * math.log(self.scale)

    @cached_property
    def _factor(self) -> np.ndarray:
        """Lower Cholesky factor of the observations' covariance, [n, n]."""
        covariance = self._prior_covariance(self.features, self.features)
        covariance[np.diag_indices_from(covariance)] += self.noise
        return cholesky(covariance, lower=True)

    @cached_property
    def _weights(self) -> np.ndarray:
        """The observations' covariance, inverted, times what they are beyond the belief; [n]."""
        return cho_solve((self._factor, True), self.targets - self.belief.mean(self.features))

    def _prior_covariance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self.hyperparameters.covariance(first, second) + self.belief.covariance(first, second)

    def _explained(self, features: np.ndarray) -> np.ndarray:
        """Columns whose inner products are the covariance that the observations explain, [n, N]."""
        return solve_triangular(self._factor, self._prior_covariance(self.features, features), lower=True)

    def _standard_posterior(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standardised mean [N] and variance [N], and `_explained`."""
        cross = self._prior_covariance(self.features, features)
        mean = self.belief.mean(features) + cross.T @ self._weights
        explained = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        variance = self.hyperparameters.variance + self.belief.variance(features) - np.square(explained).sum(axis=0)
        return mean, np.maximum(variance, 1e-12), explained
