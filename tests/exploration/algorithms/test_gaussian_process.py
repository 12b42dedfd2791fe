import numpy as np
import pytest
import torch

from flashdistill.exploration.algorithms.gaussian_process import GaussianProcess


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, (40, 3))
    truth = np.sin(3 * features[:, 0]) + features[:, 1] ** 2
    return features, 100 + 5 * (truth + 0.05 * rng.standard_normal(40)), truth


@pytest.fixture(scope="module")
def process(data):
    features, values, _ = data
    return GaussianProcess.fit(features, values, np.full(40, 0.25**2), seed=0)


def test_predicts_a_smooth_function_with_honest_uncertainty(process):
    queries = np.random.default_rng(1).uniform(0.1, 0.9, (200, 3))
    truth = 100 + 5 * (np.sin(3 * queries[:, 0]) + queries[:, 1] ** 2)
    mean, deviation = process.posterior(queries)
    assert np.abs(mean - truth).mean() < 0.25
    assert 0.8 < (np.abs(mean - truth) < 2 * deviation).mean() <= 1.0


def test_the_irrelevant_feature_gets_the_longest_scale(process):
    scales = process.model.covar_module.lengthscale.detach().numpy()[0]
    assert scales.argmax() == 2


def test_posterior_equals_gpytorch_s_own(process, data):
    """The likelihood that was fitted and the formulas of `posterior` are two implementations."""
    queries = np.random.default_rng(2).uniform(0, 1, (15, 3))
    with torch.no_grad():
        expected = process.model.posterior(torch.from_numpy(queries))
    mean, deviation = process.posterior(queries)
    np.testing.assert_allclose(mean, process.centre + process.scale * expected.mean[:, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(deviation, process.scale * expected.variance[:, 0].sqrt().numpy(), rtol=1e-4)


def test_an_imprecise_observation_counts_less(data):
    features, values, _ = data
    wrong = values.copy()
    wrong[7] += 10.0
    trusted, doubted = np.full(40, 0.25**2), np.full(40, 0.25**2)
    doubted[7] = 10.0**2
    errors = [
        abs(GaussianProcess.fit(features, wrong, noise, 0).posterior(features[[7]])[0][0] - values[7])
        for noise in (trusted, doubted)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_fantasies_keep_the_mean_and_shrink_the_uncertainty_around_them(process):
    spot, elsewhere = np.array([[1.3, 1.3, 1.3]]), np.random.default_rng(3).uniform(0, 1, (10, 3))
    after = process.with_fantasies(spot)
    assert after.posterior(spot)[1][0] < 0.7 * process.posterior(spot)[1][0]
    np.testing.assert_allclose(after.posterior(elsewhere)[0], process.posterior(elsewhere)[0], rtol=1e-6)
    assert len(process.targets) == 40


def test_constant_values_are_no_problem():
    features = np.linspace(0, 1, 5)[:, None]
    mean, deviation = GaussianProcess.fit(features, np.full(5, 3.0), np.zeros(5), 0).posterior(features)
    np.testing.assert_allclose(mean, 3.0, atol=0.05)
    assert np.isfinite(deviation).all()


def test_a_fit_leaves_torch_s_generator_alone(data):
    features, values, _ = data
    before = torch.get_rng_state()
    GaussianProcess.fit(features[:5], values[:5], np.zeros(5), 0)
    assert torch.equal(before, torch.get_rng_state())
