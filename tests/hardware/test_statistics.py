"""The estimates against SciPy, and on samples whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from flashdistill.hardware.statistics import Block, Round, percentiles, student_t_95, trimmed_mean


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
