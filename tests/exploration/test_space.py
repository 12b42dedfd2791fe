import itertools
import time

import numpy as np
import pytest

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import ConfigError
from flashdistill.core.measurement import Constraint
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.exploration.space import DesignSpace
from flashdistill.models.parameter_count import count_parameters
from tests.faults_catalogue import fault

FAMILY = StudentFamily()
PAPER = DesignSpace(SpaceSettings(), FAMILY)
HUGE = SpaceSettings(
    hidden_size=list(range(128, 1128)),
    bottleneck_size=list(range(16, 216)),
    num_heads=[1, 2, 3, 4, 8],
    intermediate_size=list(range(100, 600)),
    num_feedforward=list(range(1, 51)),
    num_blocks=list(range(1, 101)),
)


def space(**choices):
    return DesignSpace(SpaceSettings(**choices), FAMILY)


def test_the_paper_s_table_1_has_576_architectures():
    assert PAPER.size == 576 == len(set(PAPER.architectures()))


@fault(13, "heads that do not divide the bottleneck", "not in the space")
def test_only_heads_that_divide_the_bottleneck():
    odd = space(bottleneck_size=[64, 96, 100], num_heads=[2, 8, 12])
    expected = [
        Architecture(*values)
        for values in itertools.product(
            odd.factors["hidden_size"], [64, 96, 100], [2, 8, 12], [384, 512, 640], odd.factors["num_feedforward"]
        )
        if values[1] % values[2] == 0
    ]
    assert sorted(odd.architectures()) == sorted(expected)
    assert odd.size == len(expected)
    assert Architecture(128, 100, 8, 384, 2) not in odd
    assert all(architecture in odd for architecture in expected)


@fault(13, "space without a valid architecture", "refused")
def test_a_space_without_valid_architecture_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"space\.num_heads.*empty"):
        space(bottleneck_size=[64], num_heads=[3])


def test_depth_is_named_only_where_it_is_searched():
    assert {architecture.num_blocks for architecture in PAPER.architectures()} == {None}
    deep = space(num_blocks=[6, 12], hidden_size=128)
    assert {architecture.num_blocks for architecture in deep.architectures()} == {6, 12}
    assert "num_blocks" not in PAPER.factors
    assert deep.factors["num_blocks"] == (6, 12)
    assert PAPER.table[0] not in deep


def test_huge_spaces_are_counted_and_sampled_without_being_enumerated():
    start = time.perf_counter()
    huge = DesignSpace(HUGE, FAMILY)
    pairs = sum(bottleneck % heads == 0 for bottleneck in range(16, 216) for heads in (1, 2, 3, 4, 8))
    assert huge.size == 1000 * pairs * 500 * 50 * 100 > 1e12
    sample = huge.sample(100, np.random.default_rng(0))
    assert len(set(sample)) == 100
    assert all(architecture in huge and architecture.problem() is None for architecture in sample)
    assert next(huge.architectures()) in huge
    profile = huge.profile([Constraint.parse("num_parameters <= 26e6")])
    assert profile.estimated
    assert 0 < profile.within_limits < huge.size
    assert "about" in str(profile)
    assert time.perf_counter() - start < 5


def test_samples_are_distinct_uniform_and_avoid_the_excluded():
    excluded = PAPER.table[:500]
    sample = PAPER.sample(1000, np.random.default_rng(0), excluded)
    assert sorted(sample) == sorted(PAPER.table[500:])
    assert PAPER.sample(5, np.random.default_rng(3)) == PAPER.sample(5, np.random.default_rng(3))
    counts = np.zeros(24)
    index = {architecture: rank for rank, architecture in enumerate(PAPER.table)}
    for seed in range(300):
        for architecture in PAPER.sample(8, np.random.default_rng(seed)):
            counts[index[architecture] // 24] += 1
    assert np.abs(counts - 100).max() < 45  # 4.5 standard deviations


def test_encoding_is_the_rank_among_the_choices():
    first, last = Architecture(128, 64, 1, 384, 2), Architecture(512, 160, 8, 640, 6)
    np.testing.assert_array_equal(PAPER.encode([first, last]), [[0.0] * 5, [1.0] * 5])
    middle = PAPER.encode([Architecture(246, 96, 2, 512, 4)])
    np.testing.assert_allclose(middle, [[1 / 3, 1 / 3, 1 / 3, 0.5, 0.5]])


def test_encoding_drops_constant_factors_and_tells_different_architectures_apart():
    narrow = space(hidden_size=128, num_heads=4, num_feedforward=[4, 2])
    assert narrow.encode(narrow.table).shape == (narrow.size, narrow.dimension) == (4 * 3 * 2, 3)
    assert len(np.unique(PAPER.encode(PAPER.table), axis=0)) == PAPER.size
    assert space(num_blocks=[6, 12]).encode([]).shape == (0, 6)


def test_encoding_extends_beyond_the_choices():
    outside = [Architecture(640, 48, 4, 448, 8), Architecture(512, 128, 4, 448, 7)]
    encoded = PAPER.encode(outside)
    assert encoded[0, 0] > 1
    assert encoded[0, 1] < 0
    np.testing.assert_allclose(encoded[0, 3], 0.25)
    np.testing.assert_allclose(encoded[:, 4], [1.5, 1.25])


def test_comparable_means_that_the_encoding_says_everything():
    narrow = space(hidden_size=[128, 256], num_heads=4)
    assert narrow.comparable(Architecture(512, 128, 4, 512, 4))
    assert not narrow.comparable(Architecture(512, 128, 8, 512, 4))
    assert not narrow.comparable(Architecture(256, 128, 4, 512, 4, num_blocks=12))
    assert narrow.comparable(Architecture(256, 128, 4, 512, 4, num_blocks=24))


def test_neighbours_differ_by_one_step_in_one_factor():
    found = PAPER.neighbours(Architecture(128, 96, 8, 512, 4))
    expected = """
        246_96_8_512_4 128_64_8_512_4 128_128_8_512_4 128_96_4_512_4
        128_96_8_384_4 128_96_8_640_4 128_96_8_512_2 128_96_8_512_6
    """
    assert sorted(map(str, found)) == sorted(expected.split())
    with pytest.raises(ValueError, match="not in the design space"):
        PAPER.neighbours(Architecture(999, 96, 8, 512, 4))


def test_profile_against_brute_force():
    limits = [Constraint.parse("num_parameters <= 26e6"), Constraint.parse("latency_ms <= 5")]
    counts = {architecture: count_parameters(architecture, FAMILY) for architecture in PAPER.table}
    profile = PAPER.profile(limits)
    assert (profile.size, profile.estimated) == (576, False)
    assert profile.smallest_parameters == counts[profile.smallest] == min(counts.values())
    assert profile.largest_parameters == counts[profile.largest] == max(counts.values())
    assert profile.size_limits == (limits[0],)
    assert profile.within_limits == sum(count <= 26e6 for count in counts.values())
    assert f"{profile.within_limits} of 576" in str(profile)


def test_profile_counts_a_size_once_for_every_number_of_heads():
    uneven = space(bottleneck_size=[64, 90], num_heads=[1, 2, 4])
    limit = float(np.median(uneven.table_parameters))
    profile = uneven.profile([Constraint.parse(f"num_parameters <= {limit}")])
    assert profile.within_limits == (uneven.table_parameters <= limit).sum()


def test_profile_with_a_limit_relative_to_the_baseline():
    baseline = Architecture(512, 128, 4, 512, 4)
    limit = Constraint.parse("num_parameters <= 0.5x")
    bound = 0.5 * count_parameters(baseline, FAMILY)
    assert PAPER.profile([limit], baseline).within_limits == (PAPER.table_parameters <= bound).sum()
    with pytest.raises(ValueError, match="baseline"):
        PAPER.profile([limit])


def test_estimated_share_is_close_to_the_exact_one():
    big = SpaceSettings(
        hidden_size=list(range(128, 628, 20)), bottleneck_size=list(range(32, 232, 4)), num_heads=[1, 4]
    )
    medium = DesignSpace(big, FAMILY)
    large = DesignSpace(big.model_copy(update={"intermediate_size": list(range(380, 644, 4))}), FAMILY)
    limit = [Constraint.parse("num_parameters <= 20e6")]
    exact, estimate = medium.profile(limit), large.profile(limit)
    assert not exact.estimated
    assert estimate.estimated
    assert estimate.within_limits / estimate.size == pytest.approx(exact.within_limits / exact.size, abs=0.02)


def test_no_limit_on_the_size():
    profile = PAPER.profile([])
    assert profile.within_limits == 576
    assert "no limit" in str(profile)
