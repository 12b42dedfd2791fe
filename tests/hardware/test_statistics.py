"""The estimates against SciPy, and on samples whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from flashdistill.hardware.statistics import (
    Block,
    Round,
    clustered_mean,
    kendall_tau,
    percentiles,
    plain_mean,
    student_t_95,
    trimmed_mean,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7, 10, 30, 300])
def test_student_quantile(degrees: int) -> None:
    assert student_t_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.008)


def test_student_quantile_without_degrees() -> None:
    assert student_t_95(0) == math.inf


@pytest.mark.parametrize("count", [5, 10, 23])
def test_trimmed_mean_is_yuens(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    estimate = trimmed_mean(values, 0.2)
    assert estimate.mean == pytest.approx(stats.trim_mean(values, 0.2))
    # Yuen's test of the values against themselves moved by one: t = 1 / sqrt(2 stderr²).
    yuen: Any = stats.ttest_ind(values + 1, values, equal_var=False, trim=0.2)  # type: ignore[arg-type]
    assert estimate.stderr == pytest.approx(1 / (math.sqrt(2) * yuen.statistic), rel=1e-9)
    assert estimate.samples == count


def test_groups_that_have_nothing_in_common_are_one_sample() -> None:
    values = np.random.default_rng(0).normal(size=(40, 5))
    pooled, grouped = trimmed_mean(values.ravel()), clustered_mean(values.tolist())
    assert grouped.mean == pooled.mean
    assert grouped.stderr == pytest.approx(pooled.stderr, rel=0.15)
    assert grouped.samples == 200


def test_groups_of_equal_values_are_no_more_than_one_value_each() -> None:
    centers = np.random.default_rng(0).normal(size=12)
    grouped = clustered_mean([[center] * 6 for center in centers])
    alone = trimmed_mean(centers)
    assert grouped.mean == pytest.approx(alone.mean, abs=0.5 * alone.stderr)
    assert grouped.stderr == pytest.approx(alone.stderr, rel=0.25)


def test_a_spread_of_groups_may_be_assumed() -> None:
    alike = [[0.0, 1e-4, -1e-4, 0.0]] * 4
    assert clustered_mean(alike).stderr < 1e-4
    # The least that four groups can know is the spread over their root; trimming costs a little more.
    assert clustered_mean(alike, least_spread=0.01).half_width > 0.005


def test_one_group_tells_nothing_of_groups() -> None:
    assert clustered_mean([[1.0, 2.0, 3.0, 4.0]]).half_width == math.inf
    with pytest.raises(ValueError, match="at least one value"):
        clustered_mean([])


def test_plain_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(size=5)
    estimate = plain_mean(values)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (estimate.mean, estimate.stderr) == pytest.approx((values.mean(), stats.sem(values)))
    assert estimate.half_width == pytest.approx((high - low) / 2, rel=0.008)
    assert estimate.covers(low + 0.01)
    assert not estimate.covers(low - 0.01)
    wider = estimate.widened(1.5)
    assert (wider.mean, wider.stderr, wider.half_width) == pytest.approx(
        (estimate.mean, 1.5 * estimate.stderr, 1.5 * estimate.half_width)
    )


def test_of_four_rounds_the_extremes_are_set_aside() -> None:
    assert trimmed_mean([1.0, 2.0, 4.0, 100.0]).mean == 3.0


def test_outliers_have_no_say() -> None:
    values = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98, 1.0, 1.0, 1.0]
    spoiled = [*values[:-1], 1e6]
    assert trimmed_mean(spoiled).mean == pytest.approx(trimmed_mean(values).mean, abs=0.03)
    assert trimmed_mean(spoiled).half_width < 0.2


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        estimate = trimmed_mean(random.standard_t(5, size=10) + 3.0)
        covered += abs(estimate.mean - 3.0) <= estimate.half_width
    assert 0.93 < covered / 2000 < 0.98


def test_one_value_says_nothing_about_its_error() -> None:
    estimate = trimmed_mean([2.0])
    assert estimate.mean == 2.0
    assert estimate.stderr == math.inf
    assert estimate.half_width == math.inf


def test_no_values() -> None:
    with pytest.raises(ValueError, match="at least one"):
        trimmed_mean([])


def test_blocks_and_rounds() -> None:
    candidate = Block.from_nanoseconds([4_000_000, 8_000_000, 6_000_000], [2_000_000, 3_000_000, 4_000_000])
    reference = Block.from_nanoseconds([3_000_000], [3_000_000])
    assert candidate.median("wall") == 6.0
    assert candidate.median("cpu") == 3.0
    assert candidate.cpu_share == pytest.approx(0.5)
    assert Round(candidate, reference).log_ratio("wall") == pytest.approx(math.log(2))
    assert Round(candidate, reference).log_ratio("cpu") == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("count", "names"),
    [(63, ["p50_ms"]), (64, ["p50_ms", "p90_ms"]), (662, ["p50_ms", "p90_ms", "p99_ms"])],
)
def test_percentiles_only_where_the_samples_suffice(count: int, names: list[str]) -> None:
    found = percentiles(np.arange(count, dtype=np.float64))
    assert list(found) == names
    assert found["p50_ms"] == pytest.approx((count - 1) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_kendall_tau_is_scipys(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 8, size=(2, 15)).astype(float)
    known: Any = stats.kendalltau(first, second)
    assert kendall_tau(first.tolist(), second.tolist()) == pytest.approx(known.statistic)


def test_kendall_tau_of_known_orders() -> None:
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert math.isnan(kendall_tau([1, 1], [1, 2]))
    assert math.isnan(kendall_tau([1], [1]))
    with pytest.raises(ValueError, match="2 and 1 values"):
        kendall_tau([1, 2], [1])
