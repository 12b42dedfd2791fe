"""A Gaussian process on encoded architectures: fitted by BoTorch, evaluated exactly.

Shape legend: n observations, N query points, d features in [0, 1].
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import gpytorch
import numpy as np
import torch
from botorch.exceptions.errors import BotorchError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.constraints import GreaterThan
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator import to_dense
from linear_operator.utils.cholesky import psd_safe_cholesky
from linear_operator.utils.errors import NanError, NotPSDError

_log = logging.getLogger(__name__)

_MIN_NOISE = 1e-6
"""Smallest noise variance of an observation, in units of the observations' variance."""

_FIT_OPTIONS = {"maxiter": 75, "ftol": 1e-6}
"""Of L-BFGS-B: tighter ones take twice as long and change the predictions by less than the noise."""


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Compute on one thread: with matrices this small, threads that wait for a busy core cost ten times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process; immutable, in float64.

    The kernel is Matérn 5/2 with one length scale per feature and the dimension-scaled
    log-normal prior of Hvarfner et al. (2024). Two noises add up: each observation's own,
    which was measured, and a common one, which is learned, because a standard error knows
    nothing of the variation between training seeds or between days of a machine.

    Attributes:
        model: holds the kernel and its hyper-parameters; never changed after the fit.
        features: [n, d].
        targets: standardised observations, [n].
        noise: variance of each standardised observation, both parts, [n].
        shared_noise: the learned part.
        centre, scale: undo the standardisation.
    """

    model: SingleTaskGP
    features: torch.Tensor
    targets: torch.Tensor
    noise: torch.Tensor
    shared_noise: float
    centre: float
    scale: float

    @classmethod
    def fit(cls, features: np.ndarray, values: np.ndarray, variances: np.ndarray, seed: int) -> GaussianProcess:
        """Fit the hyper-parameters by their maximum posterior probability.

        If the optimiser fails, the priors' modes are used and the failure is logged: a search
        goes on with a plain model rather than not at all.

        Args:
            features: float [n, d], n and d at least 1.
            values: observations, [n].
            variances: the known noise variance of each, [n]; 0 where none is known.
            seed: of the optimiser's restarts; torch's global generator stays as it is.
        """
        centre, scale = float(values.mean()), float(values.std())
        scale = scale if scale > 1e-12 * max(1.0, abs(centre)) else 1.0
        inputs = torch.from_numpy(features).double()
        targets = torch.from_numpy((values - centre) / scale).double()
        known = torch.from_numpy(variances / scale**2).double().clamp_min(_MIN_NOISE)
        model = _model(inputs, targets, known)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # BoTorch retries by itself; its and the optimiser's remarks help no user.
            warnings.simplefilter("ignore")
            torch.manual_seed(seed % 2**63)
            _fit(model)
        with torch.no_grad():
            shared = float(model.likelihood.second_noise)  # type: ignore[union-attr]
        return cls(model, inputs, targets, known + shared, shared, centre, scale)

    def posterior(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the noise-free values at ``features`` [N, d]; each [N]."""
        with torch.no_grad():
            queries = torch.from_numpy(features).double()
            prior_mean = cast(torch.Tensor, self.model.mean_module(queries[:1]))
            covariance = self._kernel(self.features, self.features) + torch.diag(self.noise)
            factor = psd_safe_cholesky(covariance)
            cross = torch.linalg.solve_triangular(factor, self._kernel(self.features, queries), upper=False)
            residual = (self.targets - prior_mean).unsqueeze(-1)
            mean = prior_mean + cross.mT @ torch.linalg.solve_triangular(factor, residual, upper=False)
            prior_variance = self.model.covar_module(queries, diag=True)
            variance = (prior_variance - cross.square().sum(dim=0)).clamp_min(1e-12)
        return (
            self.centre + self.scale * mean.squeeze(-1).numpy(),
            self.scale * variance.sqrt().numpy(),
        )

    def with_fantasies(self, features: np.ndarray) -> GaussianProcess:
        """The same process as if its own means had been observed at ``features`` [k, d].

        The mean stays, the uncertainty around these points shrinks: so several workers are not
        sent to the same spot.
        """
        if not len(features):
            return self
        mean, _ = self.posterior(features)
        extra = torch.from_numpy((mean - self.centre) / self.scale)
        measured = float(self.noise.median())
        return replace(
            self,
            features=torch.cat([self.features, torch.from_numpy(features).double()]),
            targets=torch.cat([self.targets, extra]),
            noise=torch.cat([self.noise, torch.full_like(extra, measured)]),
        )

    def _kernel(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return to_dense(cast(torch.Tensor, self.model.covar_module(first, second)))


def _model(inputs: torch.Tensor, targets: torch.Tensor, known_noise: torch.Tensor) -> SingleTaskGP:
    prior = LogNormalPrior(loc=-4.0, scale=1.0)
    likelihood = FixedNoiseGaussianLikelihood(
        noise=known_noise,
        learn_additional_noise=True,
        noise_prior=prior,
        noise_constraint=GreaterThan(
            1e-5,
            transform=None,  # pyright: ignore[reportArgumentType] - a bound of the optimiser instead
            initial_value=float(prior.mode),
        ),
    )
    return SingleTaskGP(
        inputs,
        targets.unsqueeze(-1),
        likelihood=likelihood,
        covar_module=get_covar_module_with_dim_scaled_prior(inputs.shape[-1], use_rbf_kernel=False),
        outcome_transform=None,
    )


def _fit(model: SingleTaskGP) -> None:
    start = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        # Small systems: exact Cholesky factors keep the result the same on every call.
        with gpytorch.settings.fast_computations(False, False, False):
            fit_gpytorch_mll(
                ExactMarginalLogLikelihood(model.likelihood, model),
                optimizer_kwargs={"options": _FIT_OPTIONS},
            )
    except (BotorchError, NanError, NotPSDError, RuntimeError, ValueError) as error:
        _log.warning("fitting a Gaussian process failed (%s); going on with its prior settings", error)
        model.load_state_dict(start)
    model.eval()
