import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior

from flashdistill.exploration.algorithms import kernel
from flashdistill.exploration.algorithms.kernel import Evidence, Hyperparameters, fit, negative_log_posterior


def some_evidence(count=25, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.uniform(0, 1, (count, 3))
    residuals = np.sin(4 * features[:, 0]) + features[:, 1] + 0.1 * rng.standard_normal(count)
    return Evidence(
        features,
        residuals - residuals.mean(),
        rng.uniform(0.005, 0.02, count),
        rng.integers(1, 4, count).astype(float),
        np.full((count, count), 0.7),
    )


def squares_of(evidence):
    return np.square(evidence.features.T[:, :, None] - evidence.features.T[:, None, :])


LOGS = np.log([0.4, 0.9, 2.5, 1.3, 0.03])


def test_the_gradient_is_that_of_finite_differences():
    evidence = some_evidence()
    squares = squares_of(evidence)
    _, gradient = negative_log_posterior(LOGS, evidence, squares)
    numeric = [
        negative_log_posterior(LOGS + step, evidence, squares)[0]
        - negative_log_posterior(LOGS - step, evidence, squares)[0]
        for step in 1e-5 * np.eye(len(LOGS))
    ]
    np.testing.assert_allclose(gradient, np.array(numeric) / 2e-5, rtol=1e-6, atol=1e-7)


def test_the_objective_agrees_with_gpytorch_s_likelihood_and_priors():
    """Up to a constant: differences between two settings are compared."""
    evidence = some_evidence()
    evidence = Evidence(
        evidence.features, evidence.residuals, evidence.known, np.ones(len(evidence)), np.zeros((25, 25))
    )
    likelihood = FixedNoiseGaussianLikelihood(
        noise=torch.from_numpy(evidence.known),
        learn_additional_noise=True,
        noise_prior=LogNormalPrior(-4.0, 1.0),
        noise_constraint=GreaterThan(1e-5, transform=None),  # pyright: ignore[reportArgumentType]
    )
    location = np.sqrt(2) + 0.5 * np.log(3)
    matern = MaternKernel(2.5, ard_num_dims=3, lengthscale_prior=LogNormalPrior(location, 1.0))
    model = SingleTaskGP(
        torch.from_numpy(evidence.features),
        torch.from_numpy(evidence.residuals)[:, None],
        likelihood=likelihood,
        covar_module=ScaleKernel(matern),
        mean_module=ZeroMean(),
        outcome_transform=None,
    ).double()
    objective = ExactMarginalLogLikelihood(model.likelihood, model)
    model.train()

    def expected(logs):
        values = np.exp(logs)
        matern.lengthscale = torch.from_numpy(values[:3])
        model.covar_module.outputscale = values[3]
        likelihood.second_noise = values[4]
        with gpytorch.settings.fast_computations(False, False, False), torch.no_grad():
            total = objective(model(*model.train_inputs), model.train_targets).item() * 25  # type: ignore[union-attr]
        # The variance's prior is ours: log-normal in the logarithm.
        return -total + 0.5 * (logs[3] / 0.5) ** 2

    other = np.log([0.8, 0.3, 1.0, 0.6, 0.1])
    got = [negative_log_posterior(logs, evidence, squares_of(evidence))[0] for logs in (LOGS, other)]
    assert got[0] - got[1] == pytest.approx(expected(LOGS) - expected(other), rel=1e-5)


def test_the_fit_is_a_stationary_point_and_the_same_whatever_was_fitted_before():
    evidence = some_evidence(150)
    kernel._memo.clear()
    cold = fit(evidence)
    logs = np.log([*cold.scales, cold.variance, cold.noise])
    _, gradient = negative_log_posterior(logs, evidence, squares_of(evidence))
    assert np.abs(gradient).max() < 0.1
    kernel._memo.clear()
    fit(some_evidence(30, seed=5))
    fit(evidence.first(50))
    np.testing.assert_array_equal(fit(evidence).scales, cold.scales)


def test_the_memo_is_bounded_and_returns_the_same_object(monkeypatch):
    monkeypatch.setattr(kernel, "_MEMO_SIZE", 3)
    kernel._memo.clear()
    evidence = some_evidence(6)
    assert fit(evidence) is fit(evidence)
    for seed in range(5):
        fit(some_evidence(6, seed=seed + 10))
    assert len(kernel._memo) == 3


def test_fixed_observations_have_no_common_noise_left_to_learn():
    """Measured errors explain the scatter: the learned part stays small, and takes over where they are missing."""
    rng = np.random.default_rng(3)
    features = rng.uniform(0, 1, (120, 2))
    residuals = np.sin(3 * features[:, 0]) + 0.3 * rng.standard_normal(120)
    background, once = np.zeros((120, 120)), np.ones(120)
    explained = fit(Evidence(features, residuals, np.full(120, 0.09), once, background))
    unexplained = fit(Evidence(features, residuals, np.full(120, 1e-6), once, background))
    assert explained.noise < 0.02
    assert unexplained.noise == pytest.approx(0.09, rel=0.35)


def test_the_mean_of_several_seeds_has_a_part_of_the_common_noise():
    """Half of the observations are means of 9 runs: told so, the fit finds the noise of a single run."""
    rng = np.random.default_rng(4)
    features = rng.uniform(0, 1, (160, 2))
    repeats = np.where(np.arange(160) % 2, 9.0, 1.0)
    residuals = np.sin(3 * features[:, 0]) + 0.3 / np.sqrt(repeats) * rng.standard_normal(160)
    found = fit(Evidence(features, residuals, np.full(160, 1e-6), repeats, np.zeros((160, 160))))
    assert found.noise == pytest.approx(0.09, rel=0.35)


def test_without_observations_of_any_effect_the_priors_hold():
    expected = Hyperparameters.expected(2)
    found = fit(Evidence(np.full((1, 2), 0.5), np.zeros(1), np.full(1, 1e-6), np.ones(1), np.ones((1, 1))))
    np.testing.assert_allclose(found.scales, expected.scales, rtol=0.05)
