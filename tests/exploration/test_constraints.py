import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint
from flashdistill.exploration.constraints import (
    excess,
    known_without_measuring,
    nearest_violators,
    violations,
)

LIMITS = [Constraint.parse(text) for text in ("num_parameters <= 26e6", "latency_ms <= 0.8x", "mlm_accuracy >= 0.3")]
BASELINE = {"latency_ms": 10.0}


def test_what_can_be_checked_when():
    assert known_without_measuring(LIMITS) == LIMITS[:1]


def test_only_known_metrics_are_checked():
    assert violations(LIMITS, {}, {}) == []
    assert violations(LIMITS, {"num_parameters": 26e6}, {}) == []
    assert violations(LIMITS, {"latency_ms": 8.0, "mlm_accuracy": 0.3}, BASELINE) == []


def test_every_violation_is_explained():
    broken = violations(LIMITS, {"num_parameters": 27e6, "latency_ms": 8.1, "mlm_accuracy": 0.2}, BASELINE)
    assert len(broken) == 3
    assert "latency_ms = 8.1 breaks latency_ms <= 0.8x (limit 8)" in broken


def test_a_relative_bound_needs_the_baseline():
    with pytest.raises(ValueError, match="needs the baseline"):
        violations(LIMITS, {"latency_ms": 8.0}, {})


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [("latency_ms <= 0.8x", 10.0, 0.25), ("latency_ms <= 8", 4.0, -0.5), ("mlm_accuracy >= 0.4", 0.3, 0.25)],
)
def test_excess_is_relative_to_the_limit_and_positive_where_broken(text, value, expected):
    assert excess(Constraint.parse(text), value, 10.0) == pytest.approx(expected)


def test_nearest_violators_come_first():
    candidates = [
        (Architecture(128, 64, heads, 384, 2), {"latency_ms": latency, "num_parameters": 20e6})
        for heads, latency in [(1, 16.0), (2, 8.4), (4, 12.0), (8, 7.0)]
    ]
    lines = nearest_violators(candidates, LIMITS, BASELINE, count=2)
    assert [line.split(":")[0] for line in lines] == ["128_64_2_384_2", "128_64_4_384_2"]
    assert "latency_ms = 8.4 breaks" in lines[0]
    assert nearest_violators([], LIMITS, BASELINE) == []
