import numpy as np
import pytest

from flashdistill.core.measurement import Constraint
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.probes import probe_design
from flashdistill.testing.algorithm_conformance import small_space
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem

SYNTHETIC = SyntheticProblem()
SPACE = SYNTHETIC.space
PROBLEM = SearchProblem(OBJECTIVES, (), SYNTHETIC.baseline)


def least_distance(space, architectures):
    features = space.encode(architectures)
    pairs = np.triu_indices(len(features), 1)
    return np.linalg.norm(features[:, None] - features[None], axis=-1)[pairs].min()


def large_space():
    return small_space(
        hidden_size=list(range(128, 528, 8)),
        bottleneck_size=list(range(32, 232, 4)),
        intermediate_size=list(range(128, 528, 8)),
        num_blocks=[2, 4, 6],
    )


def test_the_extremes_come_first_and_the_rest_is_spread():
    design = probe_design(SPACE, PROBLEM, 20, seed=0)
    counts = SPACE.parameters(design)
    assert [counts[0], counts[1]] == [SPACE.table_parameters.min(), SPACE.table_parameters.max()]
    assert len(set(design)) == 20
    rng = np.random.default_rng(0)
    assert least_distance(SPACE, design) > max(least_distance(SPACE, SPACE.sample(20, rng)) for _ in range(50))


def test_the_baseline_is_measured_anyway():
    everything = probe_design(SPACE, PROBLEM, SPACE.size, seed=0)
    assert sorted([*everything, SYNTHETIC.baseline]) == sorted(SPACE.table)


def test_the_same_seed_gives_the_same_design_and_a_larger_one_begins_with_it():
    assert probe_design(SPACE, PROBLEM, 8, seed=3) == probe_design(SPACE, PROBLEM, 12, seed=3)[:8]
    assert probe_design(SPACE, PROBLEM, 12, seed=3) != probe_design(SPACE, PROBLEM, 12, seed=4)


@pytest.mark.parametrize("limit", ["num_parameters <= 20e6", "num_parameters >= 22e6", "num_parameters <= 1.0x"])
def test_size_limits_are_kept(limit):
    constraint = Constraint.parse(limit)
    design = probe_design(SPACE, SearchProblem(OBJECTIVES, [constraint], SYNTHETIC.baseline), 15, seed=0)
    reference = float(SPACE.parameters([SYNTHETIC.baseline])[0])
    assert len(design) == 15
    assert all(constraint.satisfied(count, reference) for count in SPACE.parameters(design))


def test_nothing_to_probe():
    assert probe_design(SPACE, PROBLEM, 0, seed=0) == []
    limited = SearchProblem(OBJECTIVES, [Constraint.parse("num_parameters <= 10")], SYNTHETIC.baseline)
    assert probe_design(SPACE, limited, 5, seed=0) == []
    single = small_space(hidden_size=128, bottleneck_size=64, intermediate_size=384, num_feedforward=2)
    assert probe_design(single, SearchProblem(OBJECTIVES, (), single.table[0]), 5, seed=0) == []


def test_a_space_too_large_to_enumerate():
    space = large_space()
    assert not space.enumerable
    design = probe_design(space, PROBLEM, 16, seed=0)
    ends = {name: (choices[0], choices[-1]) for name, choices in space.factors.items()}
    assert len(set(design)) == 16
    assert all(architecture in space for architecture in design)
    assert all(getattr(design[0], name) == low for name, (low, _) in ends.items() if name != "num_heads")
    assert all(getattr(design[1], name) == high for name, (_, high) in ends.items() if name != "num_heads")
