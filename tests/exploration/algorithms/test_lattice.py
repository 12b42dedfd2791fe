import itertools

import numpy as np
import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.exploration.algorithms.lattice import Lattice, latin_hypercube
from flashdistill.testing.search_cases import small_space, vast_space


@pytest.fixture
def space():
    """Many bottlenecks have no valid number of heads next to them."""
    return small_space(bottleneck_size=[6, 8, 12, 64, 96], num_heads=[1, 2, 3, 4, 8])


def test_nearest_first_is_the_whole_space_in_order_of_distance(space):
    lattice, rng = Lattice(space), np.random.default_rng(0)
    for position in rng.random((5, space.dimension)):
        found = list(lattice.nearest_first(position))
        assert sorted(found) == sorted(space.table)
        steps = space.encode(found) - position
        distances = np.square(steps * (lattice.choices - 1)).sum(axis=1)
        assert np.all(np.diff(distances) > -1e-12)


def test_an_architecture_is_nearest_to_its_own_position(space):
    lattice = Lattice(space)
    positions = lattice.positions(space.table)
    assert [lattice.nearest(position) for position in positions] == list(space.table)


def test_outside_architectures_are_brought_to_the_surface(space):
    position = Lattice(space).positions([Architecture(1024, 192, 16, 64, 12)])
    assert position.tolist() == [[1.0, 1.0, 1.0, 0.0, 1.0]]


def test_a_space_of_one_point():
    space = small_space(hidden_size=128, bottleneck_size=64, intermediate_size=384, num_feedforward=2)
    assert list(Lattice(space).nearest_first(np.empty(0))) == list(space.table)


def test_a_vast_space_is_walked_lazily():
    space = vast_space()
    near = list(itertools.islice(Lattice(space).nearest_first(np.full(6, 0.5)), 100))
    assert len(set(near)) == 100
    assert all(architecture in space for architecture in near)


@pytest.mark.parametrize(("fewest", "most"), [(0, 5e6), (1.2e9, np.inf), (50e6, 55e6)])
def test_positions_are_moved_into_size_limits(fewest, most):
    space = vast_space()
    lattice = Lattice(space)
    for position in np.random.default_rng(0).random((5, 6)):
        moved = lattice.nearest(lattice.within(position, fewest, most))
        assert fewest <= space.parameters([moved])[0] <= most


def test_positions_within_the_limits_stay():
    position = np.full(6, 0.3)
    assert np.array_equal(Lattice(vast_space()).within(position, 0, np.inf), position)


def test_latin_hypercube_has_one_point_in_every_part_of_every_axis():
    points = latin_hypercube(7, 3, np.random.default_rng(0))
    assert np.array_equal(np.sort(np.floor(points * 7), axis=0), np.arange(7)[:, None].repeat(3, axis=1))
    assert latin_hypercube(4, 0, np.random.default_rng(0)).shape == (4, 0)
