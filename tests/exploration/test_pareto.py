import itertools

import numpy as np
import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.pareto import dominates, hypervolume, non_dominated, pareto_front

OBJECTIVES = [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]


def trial(number, accuracy, latency, state=TrialState.COMPLETE):
    values = {"mlm_accuracy": accuracy, "latency_ms": latency}
    measurements = {name: Measurement.of(name, value) for name, value in values.items() if value is not None}
    return Trial(number, Architecture(128, 64, 1, 384, number + 1), state, measurements=measurements)


def brute_force(points):
    return [
        i
        for i, p in enumerate(points)
        if not any(np.all(q >= p) and np.any(q > p) for q in points)
        and not any(np.array_equal(points[j], p) for j in range(i))
    ]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_front_against_brute_force(objectives):
    rng = np.random.default_rng(objectives)
    for count in (1, 2, 5, 30):
        for _ in range(10):
            # Few distinct values, so that ties and equal points occur.
            points = rng.integers(0, 6, (count, objectives)).astype(float)
            assert non_dominated(points).tolist() == brute_force(points)


def test_no_points_no_front():
    assert non_dominated(np.empty((0, 2))).tolist() == []


def test_directions_are_respected():
    trials = [trial(0, 0.30, 10), trial(1, 0.32, 12), trial(2, 0.31, 12), trial(3, 0.29, 11), trial(4, 0.28, 5)]
    assert [t.number for t in pareto_front(trials, OBJECTIVES)] == [0, 1, 4]


def test_of_equal_results_the_earliest_is_kept():
    assert [t.number for t in pareto_front([trial(3, 0.3, 10), trial(1, 0.3, 10)], OBJECTIVES)] == [1]


def test_only_complete_trials_with_finite_values_compete():
    others = [
        trial(1, 0.9, 1, TrialState.FAILED),
        trial(2, None, 1, TrialState.INFEASIBLE),
        trial(3, None, None, TrialState.PENDING),
        trial(4, float("nan"), 1),
        trial(5, 0.9, float("-inf")),
        trial(6, 0.9, None),
    ]
    assert [t.number for t in pareto_front([trial(0, 0.3, 10), *others], OBJECTIVES)] == [0]
    assert pareto_front(others, OBJECTIVES) == []


def test_dominates():
    assert dominates((1, 2), (1, 1))
    assert not dominates((1, 1), (1, 1))
    assert not dominates((2, 0), (1, 1))


def test_hypervolume_of_a_known_front():
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.0, 1.0], [9.0, -1.0]])
    assert hypervolume(points, (0.0, 0.0)) == pytest.approx(6.0)
    assert hypervolume(points, (1.0, 1.0)) == pytest.approx(1.0)
    assert hypervolume(np.empty((0, 2)), (0.0, 0.0)) == 0.0
    assert hypervolume(np.array([[2.0, 3.0, 4.0], [3.0, 1.0, 1.0]]), (0, 0, 0)) == pytest.approx(25.0)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_by_inclusion_and_exclusion(objectives):
    points = np.random.default_rng(objectives).uniform(0, 1, (6, objectives))
    expected = sum(
        (-1) ** (size + 1) * np.prod(np.min(points[list(chosen)], axis=0))
        for size in range(1, 7)
        for chosen in itertools.combinations(range(6), size)
    )
    assert hypervolume(points, [0.0] * objectives) == pytest.approx(expected)
