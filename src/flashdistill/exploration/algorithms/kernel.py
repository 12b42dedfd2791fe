"""The covariance of a Gaussian process, and how its hyper-parameters are found.

Shape legend: n observations, N queries, d features in [0, 1].
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.linalg import LinAlgError, get_lapack_funcs
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

_log = logging.getLogger(__name__)

_LEAST_SCALE, _MOST_SCALE = 2.5e-2, 1e3
_LEAST_NOISE, _MOST_NOISE = 1e-5, 1e1
_LEAST_VARIANCE, _MOST_VARIANCE = 1e-3, 1e3

_SCALE_PRIOR = (math.sqrt(2.0), 1.0)
"""Log-normal prior (location, scale) of a length scale, with one feature."""

_NOISE_PRIOR = (-4.0, 1.0)
_VARIANCE_PRIOR = (0.0, 0.5)
"""Log-normal priors (location, scale) of the common noise and of the kernel's variance."""

_COARSE_ABOVE = 96
"""With more observations the optimiser starts where a third of them led it."""

_FIT_OPTIONS = {"maxiter": 100, "ftol": 1e-7, "gtol": 1e-4}
"""Of L-BFGS-B: what tighter ones change in the predictions is below the noise."""

_MEMO_SIZE = 256

_POTRF, _POTRI = get_lapack_funcs(("potrf", "potri"), dtype=float)


@dataclass(frozen=True)
class Hyperparameters:
    """In units of the standardised observations.

    Attributes:
        scales: the length scale of each feature, [d].
        variance: of the values, far from all observations.
        noise: variance that is common to all single observations, beyond their measured errors.
    """

    scales: np.ndarray
    variance: float
    noise: float

    @classmethod
    def expected(cls, dimension: int) -> Hyperparameters:
        """The modes of the priors."""
        location, scale = _scale_prior(dimension)
        noise = math.exp(_NOISE_PRIOR[0] - _NOISE_PRIOR[1] ** 2)
        return cls(np.full(dimension, math.exp(location - scale**2)), 1.0, noise)

    def covariance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Matérn 5/2 between features [n, d] and [N, d]; [n, N]."""
        squared = cdist(first / self.scales, second / self.scales, "sqeuclidean")
        shape, _ = _matern(squared)
        return self.variance * shape


@dataclass(frozen=True)
class Evidence:
    """What hyper-parameters are fitted to.

    Attributes:
        features: [n, d].
        residuals: standardised observations less what was believed of them beforehand, [n].
        known: variances of their measured errors, [n].
        repeats: how many observations each is the mean of, [n]; they share the common noise.
        background: covariance that has no hyper-parameters, [n, n].
    """

    features: np.ndarray
    residuals: np.ndarray
    known: np.ndarray
    repeats: np.ndarray
    background: np.ndarray

    def __len__(self) -> int:
        return len(self.residuals)

    def first(self, count: int) -> Evidence:
        """The first ``count`` observations."""
        part = slice(count)
        return Evidence(
            self.features[part], self.residuals[part], self.known[part], self.repeats[part], self.background[part, part]
        )

    def digest(self) -> bytes:
        """The same for equal contents."""
        content = hashlib.sha256()
        for array in (self.features, self.residuals, self.known, self.repeats, self.background):
            content.update(str(array.shape).encode())
            content.update(np.ascontiguousarray(array, dtype=float).tobytes())
        return content.digest()


_memo: OrderedDict[bytes, Hyperparameters] = OrderedDict()


def fit(evidence: Evidence) -> Hyperparameters:
    """The hyper-parameters of the highest posterior probability; a pure function of the evidence.

    The length scales have the dimension-scaled log-normal prior of Hvarfner et al. (2024),
    "Vanilla Bayesian Optimization Performs Great in High Dimensions", but of scale 1 instead of
    √3: the mode of the wider one is so short a scale that a dozen observations say nothing of the
    others. The common noise has BoTorch's prior. If the optimiser fails, the priors' modes are
    used and the failure is logged: a search goes on with a plain model rather than not at all.
    Recent results are remembered, which saves time and changes nothing.
    """
    key = evidence.digest()
    if key in _memo:
        _memo.move_to_end(key)
        return _memo[key]
    found = _search(evidence)
    _memo[key] = found
    if len(_memo) > _MEMO_SIZE:
        _memo.popitem(last=False)
    return found


def _search(evidence: Evidence) -> Hyperparameters:
    dimension = evidence.features.shape[1]
    start = Hyperparameters.expected(dimension)
    if len(evidence) > _COARSE_ABOVE:
        start = fit(evidence.first(len(evidence) // 3))
    squares = np.square(evidence.features.T[:, :, None] - evidence.features.T[:, None, :])
    bounds = [
        *[(math.log(_LEAST_SCALE), math.log(_MOST_SCALE))] * dimension,
        (math.log(_LEAST_VARIANCE), math.log(_MOST_VARIANCE)),
        (math.log(_LEAST_NOISE), math.log(_MOST_NOISE)),
    ]
    try:
        result = minimize(
            lambda logs: negative_log_posterior(logs, evidence, squares),
            np.log([*start.scales, start.variance, start.noise]),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options=_FIT_OPTIONS,
        )
    except (LinAlgError, FloatingPointError, ValueError) as error:
        _log.warning("fitting a Gaussian process failed (%s); going on with its prior settings", error)
        return Hyperparameters.expected(dimension)
    values = np.exp(result.x)
    return Hyperparameters(values[:dimension], float(values[-2]), float(values[-1]))


def negative_log_posterior(logs: np.ndarray, evidence: Evidence, squares: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus log p(residuals, hyper-parameters) and its gradient.

    Args:
        logs: logarithms of length scales, variance and common noise, [d + 2].
        squares: squared differences of each feature, [d, n, n].

    Raises:
        LinAlgError: the covariance is not positive definite.
    """
    dimension = len(squares)
    inverse_scales = np.exp(-2.0 * logs[:dimension])
    variance, noise = math.exp(logs[-2]), math.exp(logs[-1])
    shape, slope = _matern(np.tensordot(inverse_scales, squares, axes=1))
    covariance = variance * shape + evidence.background
    covariance[np.diag_indices_from(covariance)] += evidence.known + noise / evidence.repeats
    inverse, log_determinant = _inverse(covariance)
    weights = inverse @ evidence.residuals
    fit_term = float(evidence.residuals @ weights)
    value = 0.5 * (fit_term + log_determinant + len(evidence) * math.log(2.0 * math.pi))
    # d(value)/d(covariance); each derivative is its inner product with that of the covariance.
    outer = 0.5 * (inverse - np.outer(weights, weights))
    gradient = np.empty(dimension + 2)
    gradient[:dimension] = variance * np.tensordot(squares, outer * slope, axes=2) * inverse_scales
    gradient[-2] = variance * np.sum(outer * shape)
    gradient[-1] = noise * np.sum(np.diagonal(outer) / evidence.repeats)
    prior, prior_gradient = _log_prior(logs, dimension)
    return value - prior, gradient - prior_gradient


def _matern(squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matérn 5/2 of squared scaled distances, and its derivative by the log of a scale over that feature's part."""
    distance = np.sqrt(5.0 * np.maximum(squared, 0.0))
    decay = np.exp(-distance)
    linear = (1.0 + distance) * decay
    return linear + distance * distance / 3.0 * decay, 5.0 / 3.0 * linear


def _inverse(covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """Inverse and log-determinant of a positive definite matrix."""
    factor, failed = _POTRF(covariance, lower=1)
    if failed:
        raise LinAlgError("the covariance of the observations is not positive definite")
    log_determinant = 2.0 * float(np.log(np.diagonal(factor)).sum())
    half, _ = _POTRI(factor, lower=1)
    lower = np.tril(cast(np.ndarray, half))
    return lower + np.tril(lower, -1).T, log_determinant


def _scale_prior(dimension: int) -> tuple[float, float]:
    location, scale = _SCALE_PRIOR
    return location + 0.5 * math.log(dimension), scale


def _log_prior(logs: np.ndarray, dimension: int) -> tuple[float, np.ndarray]:
    """Log density of the hyper-parameters up to a constant, and its gradient by their logarithms."""
    priors = np.array([*[_scale_prior(dimension)] * dimension, (0.0, 1.0), _NOISE_PRIOR])
    priors[-2] = _VARIANCE_PRIOR
    z = (logs - priors[:, 0]) / priors[:, 1]
    # Of the value, not of its logarithm: hence the Jacobian, but for the variance, whose mode is 1.
    jacobian = np.ones(dimension + 2)
    jacobian[-2] = 0.0
    return float(-0.5 * z @ z - jacobian @ logs), -z / priors[:, 1] - jacobian
