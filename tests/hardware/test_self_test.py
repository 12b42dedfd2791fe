"""The self-test on simulated benches: a healthy protocol passes, others fail for the right reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Silent
from flashdistill.hardware.self_test import KNOWN_RATIO, Measure, Repeated, self_test
from flashdistill.hardware.self_test_result import (
    KnownRatioTest,
    Load,
    NullTest,
    RankTest,
    RatioInterval,
    SelfTest,
    fewest_by_chance,
)
from flashdistill.hardware.statistics import Block


class SimulatedBench:
    """Measures with a given scatter and intervals of a given half-width, both in shares.

    Attributes:
        bias: what the ratio of a model that does more work is off by.
        busy: how often in ten looks the machine is busy.
    """

    def __init__(self, scatter: float = 0.001, half_width: float = 0.004, bias: float = 0.0, busy: int = 0):
        self.scatter, self.half_width, self.bias, self.busy = scatter, half_width, bias, busy
        self.random = np.random.default_rng(0)
        self.names = [str(index) for index in range(20)]
        self.looks = 0
        self.sessions: list[str] = []

    def null(self, repetition: int) -> Measurement:
        self.sessions.append(f"null {repetition}")
        return self._measured(1.0)

    def known_ratio(self) -> Measurement:
        self.sessions.append("known")
        return self._measured(KNOWN_RATIO * (1 + self.bias))

    @contextmanager
    def ranking_pass(self, repetition: int) -> Iterator[Measure]:
        self.sessions.append(f"pass {repetition}")
        reference_ms = 1.0 + repetition  # every session has its own
        yield lambda name: self._measured(1.05 ** int(name), reference_ms)

    def is_busy(self) -> bool:
        self.looks += 1
        return self.looks % 10 < self.busy

    def _measured(self, truth: float, reference_ms: float = 1.0) -> Measurement:
        ratio = truth * math.exp(self.random.normal(0, self.scatter))
        low, high = ratio * math.exp(-self.half_width), ratio * math.exp(self.half_width)
        details = {"ratio": ratio, "ratio_low": low, "ratio_high": high}
        return Measurement("latency_ms", ratio * reference_ms, "ms", environment={"machine_id": "m"}, details=details)


class Steps(Silent):
    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def start(self, task: str, total: int | None = None) -> None:
        self.total = total or 0

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self.done += steps


def outcome(bench: SimulatedBench, **options: int) -> SelfTest:
    return self_test(bench, {"runtime": "simulated"}, 0.02, Silent(), **options)


def test_a_healthy_protocol_passes() -> None:
    result = outcome(SimulatedBench())
    assert result.passed
    assert result.null.cv < 0.005
    assert result.rank.tau == 1.0
    assert result.rank.interval == (1.0, 1.0)
    assert not result.load.loaded


def test_every_measurement_is_independent() -> None:
    bench = SimulatedBench()
    outcome(bench, repetitions=3)
    assert bench.sessions == ["null 0", "null 1", "null 2", "known", "pass 0", "pass 1"]


def test_progress_and_looks_are_one_per_measurement() -> None:
    bench, steps = SimulatedBench(), Steps()
    self_test(bench, {}, 0.02, steps, repetitions=3)
    assert steps.total == steps.done == bench.looks == 3 + 1 + 40


def test_a_scattering_protocol_fails() -> None:
    result = outcome(SimulatedBench(scatter=0.05, half_width=0.12))
    assert not result.passed
    assert not result.null.passed
    assert result.null.covers_1, "its intervals are honest"
    assert not result.rank.passed
    assert result.rank.swapped_pairs > 0


def test_a_loaded_machine_may_scatter_more() -> None:
    quiet, loaded = (outcome(SimulatedBench(scatter=0.015, half_width=0.03, busy=busy)) for busy in (1, 5))
    assert 0.005 < quiet.null.cv < 0.015
    assert quiet.null.cv == loaded.null.cv
    assert (quiet.load.loaded, quiet.null.passed) == (False, False)
    assert (loaded.load.loaded, loaded.null.passed) == (True, True)


def test_intervals_that_promise_too_much_fail() -> None:
    result = outcome(SimulatedBench(scatter=0.004, half_width=0.0005), repetitions=8)
    assert result.null.cv <= 0.005
    assert not result.null.covers_1
    assert not result.passed


def test_a_biased_protocol_fails() -> None:
    result = outcome(SimulatedBench(bias=0.05))
    assert result.null.passed
    assert result.rank.passed
    assert not result.known_ratio.passed
    assert not result.passed
    assert result.known_ratio.error == pytest.approx(0.05, abs=0.005)


def test_json_says_everything() -> None:
    result = outcome(SimulatedBench())
    encoded = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert encoded["passed"] is True
    assert encoded["null_ci_covers_1"] is True
    assert encoded["null_ratio_cv"] == result.null.cv
    assert encoded["kendall_tau"] == 1.0
    assert encoded["null_test"]["intervals"] == len(encoded["null_test"]["ratios"]) == 8
    assert len(encoded["rank_test"]["architectures"]) == 20
    assert encoded["rank_test"]["largest_disagreement"]["architecture"] in result.rank.names
    assert encoded["environment"] == {"machine_id": "m"}
    assert encoded["settings"] == {"runtime": "simulated"}
    assert encoded["seconds"] >= 0
    assert encoded["machine"] == {"loaded": False, "busy_share": 0.0, "looks": 49}


def test_known_ratio_by_tolerance_or_by_interval() -> None:
    assert KnownRatioTest(RatioInterval(1.51, 1.505, 1.515), 1.5, 0.02).passed, "within the tolerance"
    assert KnownRatioTest(RatioInterval(1.60, 1.49, 1.71), 1.5, 0.02).passed, "within its own interval"
    assert not KnownRatioTest(RatioInterval(1.60, 1.55, 1.65), 1.5, 0.02).passed


def test_the_largest_disagreement_is_relative_to_how_all_changed() -> None:
    rank = RankTest(["a", "b", "c"], [1.0, 2.0, 3.0], [2.0, 4.0, 6.6])
    assert rank.largest_disagreement == ("c", pytest.approx(1.1))
    assert rank.swapped_pairs == 0
    assert RankTest(["a", "b", "c"], [1.0, 2.0, 3.0], [2.0, 1.0, 3.0]).swapped_pairs == 1


def test_tau_of_few_architectures_has_a_wide_interval() -> None:
    rank = RankTest(list("abcdef"), [1, 2, 3, 4, 5, 6], [1, 2, 4, 3, 5, 6])
    low, high = rank.interval
    assert rank.tau == pytest.approx(13 / 15)
    assert low < 0.7
    assert high == 1.0


def test_null_figures() -> None:
    null = NullTest([RatioInterval(ratio, ratio - 0.02, ratio + 0.02) for ratio in (0.99, 1.0, 1.01, 1.05)], 0.05)
    assert null.cv == pytest.approx(np.std([0.99, 1.0, 1.01, 1.05], ddof=1) / 1.0125)
    assert null.covering == 3


@pytest.mark.parametrize(("count", "fewest"), [(1, 0), (2, 1), (6, 4), (8, 6), (10, 8), (100, 90)])
def test_what_chance_allows(count: int, fewest: int) -> None:
    assert fewest_by_chance(count) == fewest


def test_a_tenth_of_busy_looks_is_still_quiet() -> None:
    assert not Load([True] + [False] * 9).loaded
    assert Load([True] * 2 + [False] * 8).loaded


class Counting:
    """A model whose inferences take 1, 2, 3, … ms; the first of a run is dropped, as a runner does."""

    def run(self, count: int) -> Block:
        times = np.arange(1.0, count + 1)[1:]
        return Block(times, times / 2)


def test_repeated_inferences_are_one_call() -> None:
    block = Repeated(Counting(), 3).run(3)
    assert block.wall_ms.tolist() == [4 + 5 + 6, 7 + 8 + 9]
    assert block.cpu_ms.tolist() == [7.5, 12.0]
    assert Repeated(Counting(), 1).run(4).wall_ms.tolist() == [2, 3, 4]
