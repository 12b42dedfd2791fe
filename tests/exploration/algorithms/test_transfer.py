import numpy as np
import pytest

from flashdistill.exploration.algorithms.gaussian_process import GaussianProcess, Observations, UnknownLevel
from flashdistill.exploration.algorithms.transfer import OtherRun, fit_process


def shape(features):
    return np.sin(5 * features[:, 0]) + 2 * np.square(features[:, 1] - 0.4)


def observed(count, seed, function, noise=0.02):
    rng = np.random.default_rng(seed)
    features = rng.uniform(0, 1, (count, 2))
    values = function(features) + noise * rng.standard_normal(count)
    return Observations(features, values, np.full(count, noise**2), np.ones(count))


def related(features):
    """Another level and another slope than the other run's."""
    return 7.0 + 0.8 * shape(features)


def unrelated(features):
    return 7.0 + np.cos(6 * features[:, 1]) - features[:, 0]


OTHER = observed(60, 0, shape)
QUERIES = np.random.default_rng(9).uniform(0, 1, (200, 2))


def error(process, truth):
    mean, _ = process.posterior(QUERIES)
    return float(np.sqrt(np.square(mean - truth(QUERIES)).mean()))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_related_run_gives_the_shape_before_there_are_observations_here(count):
    here = observed(count, 1, related)
    process = fit_process(here, OTHER)
    assert process is not None
    tau = np.corrcoef(process.posterior(QUERIES)[0], related(QUERIES))[0, 1]
    assert tau > 0.97
    alone = GaussianProcess.fit(here)
    assert error(process, related) < 0.6 * error(alone, related)


def test_the_uncertainty_about_a_related_run_is_honest():
    process = fit_process(observed(6, 2, related), OTHER)
    assert process is not None
    mean, deviation = process.posterior(QUERIES)
    assert np.mean(np.abs(mean - related(QUERIES)) < 2 * deviation) > 0.85


@pytest.mark.parametrize("count", [10, 20, 30])
def test_an_unrelated_run_does_no_harm_for_long(count):
    here = observed(count, 3, unrelated)
    process = fit_process(here, OTHER)
    assert process is not None
    assert error(process, unrelated) < 1.5 * error(GaussianProcess.fit(here), unrelated) + 0.02


def test_an_unrelated_run_is_dropped_in_the_end():
    process = fit_process(observed(40, 4, unrelated), OTHER)
    assert process is not None
    assert isinstance(process.belief, UnknownLevel)


def test_what_the_belief_says_is_consistent():
    belief = OtherRun(GaussianProcess.fit(OTHER))
    covariance = belief.covariance(QUERIES[:20], QUERIES[:20])
    np.testing.assert_allclose(np.diagonal(covariance), belief.variance(QUERIES[:20]), rtol=1e-6)
    assert np.linalg.eigvalsh(covariance).min() > -1e-8


def test_too_little_to_go_by():
    assert fit_process(observed(0, 0, shape)) is None
    assert fit_process(observed(2, 0, shape)) is None
    assert fit_process(observed(0, 0, shape), OTHER) is None
    assert fit_process(observed(2, 0, shape), observed(2, 0, shape)) is None
    assert fit_process(observed(3, 0, shape)) is not None
