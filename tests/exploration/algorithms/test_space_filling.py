import numpy as np

from flashdistill.exploration.algorithms.space_filling import distances_to, farthest
from flashdistill.exploration.algorithms.surrogates import Candidates
from flashdistill.testing.algorithm_conformance import small_space

SPACE = small_space()
POOL = Candidates.of(SPACE, SPACE.table)


def test_distance_to_the_nearest_point():
    points, features = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.5], [1.0, 0.8]])
    np.testing.assert_allclose(distances_to(points, features), [0.5, 0.2])


def test_the_farthest_is_the_opposite_corner():
    assert farthest(SPACE, [SPACE.table[0]], POOL, np.random.default_rng(0)) == SPACE.table[-1]
    assert farthest(SPACE, [SPACE.table[-1]], POOL, np.random.default_rng(0)) == SPACE.table[0]


def test_what_is_unlikely_to_be_of_use_counts_as_near():
    weight = np.where(np.arange(len(POOL)) < 5, 0.0, -20.0)
    assert farthest(SPACE, [SPACE.table[0]], POOL, np.random.default_rng(0), weight) in SPACE.table[:5]


def test_the_first_point_and_ties_are_drawn():
    first = {farthest(SPACE, [], POOL, np.random.default_rng(seed)) for seed in range(20)}
    assert len(first) > 5
    corners = [SPACE.table[0], SPACE.table[-1]]
    second = {farthest(SPACE, corners, POOL, np.random.default_rng(seed)) for seed in range(20)}
    assert len(second) > 1


def test_nothing_is_of_use():
    """All weights are zero: any point will do, rather than none."""
    found = farthest(SPACE, [SPACE.table[0]], POOL, np.random.default_rng(0), np.full(len(POOL), -np.inf))
    assert found in SPACE.table
