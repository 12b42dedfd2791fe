import numpy as np
import pytest

from flashdistill.exploration.algorithms.dominance import (
    constraint_domination,
    crowding_distances,
    sort_into_fronts,
)
from flashdistill.exploration.pareto import dominates, non_dominated

FEASIBLE = np.zeros(40)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_without_violations_it_is_pareto_dominance(objectives):
    # Few levels, so that equal points and equal coordinates occur.
    values = np.random.default_rng(objectives).integers(0, 5, (40, objectives)).astype(float)
    expected = [[dominates(first, second) for second in values] for first in values]
    assert np.array_equal(constraint_domination(values, FEASIBLE), expected)


def test_debs_feasibility_rule():
    values = np.array([[0.0, 0.0], [9.0, 9.0], [8.0, 8.0]])
    found = constraint_domination(values, np.array([0.0, 2.0, 1.0]))
    assert found.tolist() == [[False, True, True], [False, False, False], [False, True, False]]


def test_equally_violating_points_do_not_dominate_each_other():
    values = np.array([[0.0, 0.0], [9.0, 9.0]])
    assert not constraint_domination(values, np.array([1.0, 1.0])).any()


def test_fronts_are_the_repeatedly_removed_non_dominated_points():
    values = np.random.default_rng(0).random((40, 2))
    fronts = sort_into_fronts(constraint_domination(values, FEASIBLE))
    left = np.arange(40)
    for front in range(fronts.max() + 1):
        best = left[non_dominated(values[left])]
        assert sorted(best) == sorted(np.flatnonzero(fronts == front))
        left = np.setdiff1d(left, best)
    assert not len(left)


def test_sorting_stops_when_enough_is_sorted():
    values = np.arange(6.0)[:, None]
    assert sort_into_fronts(constraint_domination(values, np.zeros(6)), enough=2).tolist() == [2, 2, 2, 2, 1, 0]


def test_crowding_by_hand():
    """Two fronts; on the first the ranges are 4 and 8, so the middle ones have 3/4 + 7/8 and 3/4 + 6/8."""
    values = np.array([[0.0, 8.0], [1.0, 6.0], [3.0, 1.0], [4.0, 0.0], [0.0, 0.0]])
    distances = crowding_distances(values, np.array([0, 0, 0, 0, 1]))
    assert distances.tolist() == [np.inf, 3 / 4 + 7 / 8, 3 / 4 + 6 / 8, np.inf, np.inf]


def test_points_without_values_are_no_neighbours():
    values = np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0], [-np.inf, -np.inf]])
    assert crowding_distances(values, np.zeros(4, dtype=int)).tolist() == [np.inf, 2.0, np.inf, 0.0]


def test_equal_points_and_none():
    assert sort_into_fronts(constraint_domination(np.ones((3, 2)), np.zeros(3))).tolist() == [0, 0, 0]
    assert np.isfinite(crowding_distances(np.ones((3, 2)), np.zeros(3, dtype=int))[1])
    assert sort_into_fronts(constraint_domination(np.ones((0, 2)), np.zeros(0))).tolist() == []
