"""What comparisons of simulated models say, in figures whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flashdistill.core.measurement import METRICS, Measurement
from flashdistill.hardware.protocol import Comparison, Timer, log_ratio
from flashdistill.hardware.readings import LATENCIES, calls_needed, percentile, readings, rescaled
from flashdistill.hardware.statistics import Block, Round


def simulated(passes: int = 5, rounds: int = 4, calls: int = 4, tail: float = 0.0) -> tuple[Comparison, Timer, Timer]:
    """A candidate of 4 ms and a reference of 2 ms of CPU time; wall time is twice that."""
    random = np.random.default_rng(0)
    candidate, reference = (Timer(True, 0.5, 10.0) for _ in range(2))

    def block(timer: Timer, level: float) -> Block:
        cpu = level * (1 + 0.001 * random.random(calls)) + tail * random.exponential(size=calls)
        timer.passes[-1].append(Block(2 * cpu, cpu))
        return timer.passes[-1][-1]

    attempts = []
    for _ in range(passes):
        candidate.passes.append([])
        reference.passes.append([])
        attempts.append([Round(block(candidate, 4.0), block(reference, 2.0)) for _ in range(rounds)])
    return Comparison(attempts, log_ratio(attempts, "cpu"), False, 0.0), candidate, reference


def read(reference_ms: float = 2.0, details: dict | None = None, **options: float) -> dict[str, Measurement]:
    comparison, candidate, reference = simulated(**options)  # type: ignore[arg-type]
    return readings(comparison, candidate, reference, "cpu", reference_ms, {"machine_id": "m"}, details)


def test_latency_is_the_ratio_times_the_studys_reference() -> None:
    latency = read(reference_ms=20.0, details={"load_seconds": 1.5})["latency_ms"]
    details = latency.details
    assert latency.value == pytest.approx(40.0, rel=1e-3)
    assert latency.stderr is not None
    assert 0 < latency.stderr < 0.1
    assert (latency.unit, latency.samples, latency.environment) == ("ms", 20, {"machine_id": "m"})
    assert details["ratio"] == pytest.approx(2.0, rel=1e-3)
    assert details["reference_ms"] == 20.0
    assert details["reference_now_ms"] == pytest.approx(2.0, rel=1e-3)
    assert details["p50_ms"] == pytest.approx(4.0, rel=1e-3)
    assert details["wall_p50_ms"] == pytest.approx(8.0, rel=1e-3)
    assert (details["passes"], details["rounds"], details["clock"]) == (5, 20, "cpu")
    assert details["load_seconds"] == 1.5


def test_percentiles_follow_the_studys_reference() -> None:
    p50 = read(reference_ms=20.0)["latency_p50_ms"]
    assert p50.value == pytest.approx(40.0, rel=1e-3)
    assert p50.details["wall_ms"] == pytest.approx(8.0, rel=1e-3)
    assert p50.samples == 80
    assert p50.unit == METRICS["latency_p50_ms"][0]


@pytest.mark.parametrize(
    ("calls", "absent"),
    [(3, {"latency_p90_ms", "latency_p99_ms"}), (4, {"latency_p99_ms"}), (33, {"latency_p99_ms"}), (34, set())],
)
def test_percentiles_are_there_where_the_calls_suffice(calls: int, absent: set[str]) -> None:
    assert set(read(calls=calls)) == set(LATENCIES) - absent


def test_percentiles_of_a_known_tail() -> None:
    found = read(rounds=40, calls=20, tail=1.0)
    for name, share in (("latency_p50_ms", 0.5), ("latency_p90_ms", 0.9), ("latency_p99_ms", 0.99)):
        now = found["latency_ms"].details["reference_now_ms"]
        assert isinstance(now, float)
        expected = (4.0 - math.log(1 - share)) * 2.0 / now
        stderr = found[name].stderr
        assert stderr is not None
        assert abs(found[name].value - expected) < 4 * stderr + 0.01
        assert stderr < 0.3


def test_the_error_of_a_percentile_knows_that_calls_of_a_process_share_its_luck() -> None:
    """Five processes of different speed: a thousand calls each do not make their median exact."""
    random = np.random.default_rng(0)
    errors, values = [], []
    for _ in range(60):
        levels = 10 * np.exp(random.normal(0, 0.02, size=5))
        value, stderr = percentile([level * (1 + 0.001 * random.normal(size=200)) for level in levels], 0.9)
        values.append(value)
        errors.append(stderr)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.5)


def test_one_pass_does_not_tell_its_error() -> None:
    assert percentile([np.ones(10)], 0.5) == (1.0, math.inf)
    found = read(passes=1)
    assert found["latency_p50_ms"].stderr is None
    assert found["latency_ms"].stderr is None


def test_same_samples_same_error() -> None:
    assert read(tail=1.0) == read(tail=1.0)


def test_rescaled() -> None:
    found = read() | {"peak_memory_bytes": Measurement.of("peak_memory_bytes", 10)}
    doubled = rescaled(found, 2.0)
    for name in ("latency_ms", "latency_p50_ms", "latency_p90_ms"):
        assert doubled[name].value == 2 * found[name].value
        assert doubled[name].stderr == 2 * (found[name].stderr or math.nan)
        assert doubled[name].details["reference_ms"] == 4.0
    assert doubled["latency_ms"].details["p50_ms"] == found["latency_ms"].details["p50_ms"], "what was seen then"
    assert doubled["peak_memory_bytes"] == found["peak_memory_bytes"]
    assert found["latency_ms"].value == pytest.approx(4.0, rel=1e-2), "the original stays"


def test_calls_needed() -> None:
    assert calls_needed(["mlm_accuracy", "latency_ms"]) == 0
    assert calls_needed(["latency_p90_ms"]) == 64
    assert calls_needed({"latency_p90_ms", "latency_p99_ms@gpu"}) == 662
