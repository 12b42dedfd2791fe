import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.utils.multi_objective.box_decompositions import NondominatedPartitioning
from botorch.utils.testing import MockModel, MockPosterior
from scipy.stats import norm

from flashdistill.exploration.algorithms.acquisition import (
    expected_hypervolume_improvement,
    log_probability_above,
    reference_point,
)
from flashdistill.exploration.pareto import hypervolume

FRONTS = {
    1: np.array([[0.4]]),
    2: np.array([[0.2, 0.9], [0.5, 0.6], [0.8, 0.1], [0.3, 0.3]]),
    3: np.array([[0.2, 0.9, 0.3], [0.5, 0.6, 0.5], [0.8, 0.1, 0.6], [0.5, 0.4, 0.9], [0.1, 0.1, 0.1]]),
    4: np.array([[0.2, 0.9, 0.3, 0.5], [0.5, 0.6, 0.5, 0.2], [0.8, 0.1, 0.6, 0.7], [0.5, 0.4, 0.9, 0.5]]),
}


@pytest.mark.parametrize("objectives", FRONTS)
def test_without_uncertainty_it_is_the_growth_of_the_hypervolume(objectives):
    front, reference = FRONTS[objectives], np.full(objectives, 0.05)
    points = np.random.default_rng(0).uniform(0, 1.2, (40, objectives))
    expected = [hypervolume(np.vstack([front, p]), reference) - hypervolume(front, reference) for p in points]
    got = expected_hypervolume_improvement(points, np.zeros_like(points), front, reference)
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("objectives", FRONTS)
def test_expectation_equals_the_mean_over_many_draws(objectives):
    front, reference = FRONTS[objectives], np.zeros(objectives)
    mean, deviation = np.full((1, objectives), 0.55), np.linspace(0.1, 0.3, objectives)[None]
    draws = mean + deviation * np.random.default_rng(1).standard_normal((40_000, objectives))
    growth = expected_hypervolume_improvement(draws, np.zeros_like(draws), front, reference)
    (got,) = expected_hypervolume_improvement(mean, deviation, front, reference)
    assert got == pytest.approx(growth.mean(), abs=5 * growth.std() / np.sqrt(len(growth)))
    assert got > 0


def test_two_objectives_agree_with_botorch():
    front, reference = FRONTS[2], np.array([0.0, 0.05])
    rng = np.random.default_rng(2)
    mean, deviation = rng.uniform(0, 1, (20, 2)), rng.uniform(0.05, 0.4, (20, 2))
    posterior = MockPosterior(mean=torch.tensor(mean)[:, None], variance=torch.tensor(deviation**2)[:, None])
    partitioning = NondominatedPartitioning(ref_point=torch.tensor(reference), Y=torch.tensor(front))
    judge = ExpectedHypervolumeImprovement(MockModel(posterior), reference.tolist(), partitioning)
    expected = judge(torch.zeros(20, 1, 1, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(
        expected_hypervolume_improvement(mean, deviation, front, reference), expected, rtol=1e-6, atol=1e-12
    )


def test_one_objective_is_expected_improvement():
    mean, deviation, best = np.array([[0.3], [0.6]]), np.array([[0.2], [0.1]]), 0.5
    z = (mean - best) / deviation
    expected = ((mean - best) * norm.cdf(z) + deviation * norm.pdf(z))[:, 0]
    front, reference = np.array([[0.1], [best]]), np.array([0.0])
    np.testing.assert_allclose(expected_hypervolume_improvement(mean, deviation, front, reference), expected)


def test_an_empty_front_and_no_candidates():
    got = expected_hypervolume_improvement(np.ones((1, 2)), np.zeros((1, 2)), np.empty((0, 2)), np.zeros(2))
    assert got == [1.0]
    assert len(expected_hypervolume_improvement(np.empty((0, 2)), np.empty((0, 2)), FRONTS[2], np.zeros(2))) == 0


def test_probability_is_the_product_of_normals_and_keeps_the_order_far_out():
    mean, deviation = np.array([[1.0, 2.0], [-50.0, 0.0], [-60.0, 0.0]]), np.ones((3, 2))
    log_probability = log_probability_above(mean, deviation, np.array([0.0, 1.5]))
    assert np.exp(log_probability[0]) == pytest.approx(norm.cdf(1.0) * norm.cdf(0.5))
    assert -np.inf < log_probability[2] < log_probability[1] < -1000


def test_known_values_are_above_the_bar_or_not():
    got = log_probability_above(np.array([[1.0], [0.5], [0.4]]), np.zeros((3, 1)), np.array([0.5]))
    np.testing.assert_array_equal(got, [0.0, 0.0, -np.inf])


def test_reference_point_lies_a_tenth_of_the_range_below_the_front():
    front = np.array([[0.0, 10.0], [1.0, 5.0]])
    np.testing.assert_allclose(reference_point(front, front), [-0.1, 4.5])


def test_reference_point_of_a_single_best_point_uses_everything_observed():
    front, observed = np.array([[1.0, 10.0]]), np.array([[1.0, 10.0], [0.0, 4.0]])
    np.testing.assert_allclose(reference_point(front, observed), [-0.1, 3.4])
    assert np.all(reference_point(front, front) < front)
