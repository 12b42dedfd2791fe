import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from gpytorch.kernels import ConstantKernel, MaternKernel, ScaleKernel
from gpytorch.means import ZeroMean

from flashdistill.exploration.algorithms.gaussian_process import (
    GaussianProcess,
    Observations,
    fitted_count,
)


def process_of(features, values, variances=None, repeats=None):
    variances = np.zeros(len(values)) if variances is None else variances
    repeats = np.ones(len(values)) if repeats is None else repeats
    return GaussianProcess.fit(Observations(features, values, variances, repeats))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, (40, 3))
    truth = np.sin(3 * features[:, 0]) + features[:, 1] ** 2
    return features, 100 + 5 * (truth + 0.05 * rng.standard_normal(40)), truth


@pytest.fixture(scope="module")
def process(data):
    features, values, _ = data
    return process_of(features, values, np.full(40, 0.25**2))


def test_predicts_a_smooth_function_with_honest_uncertainty(process):
    queries = np.random.default_rng(1).uniform(0.1, 0.9, (200, 3))
    truth = 100 + 5 * (np.sin(3 * queries[:, 0]) + queries[:, 1] ** 2)
    mean, deviation = process.posterior(queries)
    assert np.abs(mean - truth).mean() < 0.25
    assert 0.8 < (np.abs(mean - truth) < 2 * deviation).mean() <= 1.0


def test_the_irrelevant_feature_gets_the_longest_scale(process):
    assert process.hyperparameters.scales.argmax() == 2


def test_posterior_equals_botorch_s(process):
    """The same hyper-parameters in SingleTaskGP: an unknown level is a constant kernel of variance 1."""
    found = process.hyperparameters
    matern = ScaleKernel(MaternKernel(2.5, ard_num_dims=3))
    matern.base_kernel.lengthscale = torch.from_numpy(found.scales)
    matern.outputscale = found.variance
    level = ConstantKernel()
    level.constant = torch.tensor(1.0)
    model = SingleTaskGP(
        torch.from_numpy(process.features),
        torch.from_numpy(process.targets)[:, None],
        torch.from_numpy(process.noise)[:, None],
        covar_module=matern + level,
        mean_module=ZeroMean(),
        outcome_transform=None,
    ).double()
    queries = np.random.default_rng(2).uniform(0, 1, (15, 3))
    with torch.no_grad():
        expected = model.posterior(torch.from_numpy(queries))
    mean, deviation = process.posterior(queries)
    np.testing.assert_allclose(mean, process.centre + process.scale * expected.mean[:, 0].numpy(), rtol=1e-5)
    np.testing.assert_allclose(deviation, process.scale * expected.variance[:, 0].sqrt().numpy(), rtol=1e-3)


def test_an_imprecise_observation_counts_less(data):
    features, values, _ = data
    wrong = values.copy()
    wrong[7] += 10.0
    trusted, doubted = np.full(40, 0.25**2), np.full(40, 0.25**2)
    doubted[7] = 10.0**2
    errors = [
        abs(process_of(features, wrong, noise).posterior(features[[7]])[0][0] - values[7])
        for noise in (trusted, doubted)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_a_difference_is_known_better_than_its_ends_near_the_anchor(process):
    anchor = np.array([1.4, 1.4, 1.4])
    near, far = anchor + 0.02, np.array([0.0, 0.0, 0.0])
    mean, deviation = process.excess(np.array([near, far]), anchor)
    ends, end_deviations = process.posterior(np.array([near, far, anchor]))
    np.testing.assert_allclose(mean, ends[:2] - ends[2])
    assert deviation[0] < 0.2 * end_deviations[0]
    covariance = process.covariance(np.array([far]), anchor[None])[0, 0]
    assert deviation[1] ** 2 == pytest.approx(end_deviations[1] ** 2 + end_deviations[2] ** 2 - 2 * covariance)


def test_fantasies_keep_the_mean_and_shrink_the_uncertainty_around_them(process):
    spot, elsewhere = np.array([[1.3, 1.3, 1.3]]), np.random.default_rng(3).uniform(0, 1, (10, 3))
    after = process.with_fantasies(spot)
    assert after.posterior(spot)[1][0] < 0.7 * process.posterior(spot)[1][0]
    np.testing.assert_allclose(after.posterior(elsewhere)[0], process.posterior(elsewhere)[0], rtol=1e-6)
    assert len(process.targets) == 40


def test_leave_one_out_equals_taking_each_observation_away(process):
    mean, deviation = process.leave_one_out()
    for left_out in (0, 17, 39):
        rest = np.delete(np.arange(40), left_out)
        without = GaussianProcess(
            process.hyperparameters,
            process.belief,
            process.features[rest],
            process.targets[rest],
            process.noise[rest],
            process.centre,
            process.scale,
        )
        expected, model_deviation = without.posterior(process.features[[left_out]])
        noise = process.scale**2 * process.noise[left_out]
        assert mean[left_out] == pytest.approx(expected[0], rel=1e-8)
        assert deviation[left_out] == pytest.approx(np.sqrt(model_deviation[0] ** 2 + noise), rel=1e-6)


def test_the_evidence_does_not_depend_on_the_unit(data):
    features, values, _ = data
    densities = [process_of(features, factor * values).log_evidence() for factor in (1.0, 1000.0)]
    assert densities[0] - densities[1] == pytest.approx(40 * np.log(1000.0))


def test_many_queries_are_predicted_in_parts(process):
    queries = np.random.default_rng(5).uniform(0, 1, (9000, 3))
    mean, deviation = process.posterior(queries)
    few = process.posterior(queries[[0, 4500, 8999]])
    np.testing.assert_allclose(mean[[0, 4500, 8999]], few[0])
    np.testing.assert_allclose(deviation[[0, 4500, 8999]], few[1])


def test_constant_values_are_no_problem():
    features = np.linspace(0, 1, 5)[:, None]
    mean, deviation = process_of(features, np.full(5, 3.0)).posterior(features)
    np.testing.assert_allclose(mean, 3.0, atol=0.05)
    assert np.isfinite(deviation).all()


def test_hyperparameters_are_fitted_always_at_first_and_then_ever_more_rarely():
    assert [fitted_count(count) for count in (1, 7, 40)] == [1, 7, 40]
    counts = [fitted_count(count) for count in range(40, 600)]
    assert counts == sorted(counts)
    assert all(0.92 <= fitted / count <= 1.0 for fitted, count in zip(counts, range(40, 600), strict=True))
    assert len(set(counts)) < 40


def test_between_fits_new_observations_still_count(data):
    rng = np.random.default_rng(6)
    features = rng.uniform(0, 1, (60, 2))
    values = features.sum(axis=1)
    grown = next(count for count in range(45, 60) if fitted_count(count) == fitted_count(count + 1))
    before, after = (process_of(features[:count], values[:count]) for count in (grown, grown + 1))
    np.testing.assert_array_equal(before.hyperparameters.scales, after.hyperparameters.scales)
    assert after.posterior(features[[grown]])[1] < before.posterior(features[[grown]])[1]
