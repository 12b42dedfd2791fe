"""The measurement loop on simulated models, whose true ratio is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from flashdistill.hardware import protocol
from flashdistill.hardware.protocol import Comparison, Patience, Timer, compare
from flashdistill.hardware.settings import MeasurementSettings
from flashdistill.hardware.statistics import Block


class Machine:
    """A simulated machine: drifting, noisy, with processes of different luck.

    Attributes:
        process_spread: standard deviation of the logarithm of a process's speed.
        drift: relative slow-down per block.
        interrupt: the probability that another task takes half of a block's wall time.
    """

    def __init__(self, *, process_spread: float = 0.0, noise: float = 0.0, drift: float = 0.0, interrupt: float = 0.0):
        self.random = np.random.default_rng(0)
        self.process_spread, self.noise, self.drift, self.interrupt = process_spread, noise, drift, interrupt
        self.slowness = 1.0
        self.order: list[str] = []
        self.starts = 0

    @contextmanager
    def pair(self, candidate_ms: float, reference_ms: float) -> Iterator[tuple[Model, Model]]:
        self.starts += 1
        yield Model(self, "candidate", candidate_ms), Model(self, "reference", reference_ms)


class Model:
    def __init__(self, machine: Machine, name: str, latency_ms: float):
        self.machine, self.name = machine, name
        self.latency_ms = latency_ms * math.exp(machine.random.normal(0, machine.process_spread))

    def run(self, count: int) -> Block:
        machine = self.machine
        machine.order.append(self.name)
        machine.slowness *= 1 + machine.drift
        level = self.latency_ms * machine.slowness * math.exp(machine.random.normal(0, machine.noise))
        cpu = np.full(count - 1, level)
        return Block(cpu * (2.0 if machine.random.random() < machine.interrupt else 1.0), cpu)


def run(machine: Machine, ratio: float = 1.0, **options: float) -> tuple[Comparison, Timer, Timer]:
    settings = MeasurementSettings(**{"seconds": 10.0, "patience_seconds": 0.0} | options)  # type: ignore[arg-type]
    candidate, reference = (Timer(True, 1.0, settings.block_ms) for _ in range(2))
    comparison = compare(
        lambda: machine.pair(3.0 * ratio, 3.0),
        candidate,
        reference,
        settings,
        "cpu",
        tolerance=settings.tolerance,
        patience=Patience(settings.patience_seconds, lambda: False),
    )
    return comparison, candidate, reference


def test_the_ratio_of_quiet_models_is_exact() -> None:
    comparison, candidate, reference = run(Machine(), 1.1)
    assert comparison.ratio("cpu") == pytest.approx(1.1)
    assert comparison.ratio("wall") == pytest.approx(1.1)
    assert len(comparison.passes) == protocol.MIN_PASSES
    assert not comparison.noisy
    assert reference.latency("cpu").mean == pytest.approx(3.0)
    assert candidate.latency("cpu").mean == pytest.approx(3.3)


def test_blocks_have_the_wanted_length() -> None:
    _, candidate, _ = run(Machine(), block_ms=30.0)
    assert candidate.calls == 11, "ten calls of 3 ms after the dropped one"


def test_orders_alternate_and_are_equally_frequent() -> None:
    machine = Machine()
    comparison, *_ = run(machine)
    assert machine.starts == len(comparison.passes)
    settling = 2 * 3  # a settling run and two that decide the calls of a block, for either model
    assert machine.order[settling : settling + 8] == ["candidate", "reference", "reference", "candidate"] * 2
    assert all(len(rounds) % 2 == 0 for rounds in comparison.passes)


def test_a_steady_drift_cancels() -> None:
    comparison, *_ = run(Machine(drift=0.01))
    assert comparison.ratio("cpu") == pytest.approx(1.0, abs=1e-3)


def test_more_passes_until_the_tolerance_is_reached() -> None:
    spread = 0.03
    comparison, *_ = run(Machine(process_spread=spread), tolerance=0.01)
    assert len(comparison.passes) > protocol.MIN_PASSES
    assert comparison.log_ratio.half_width <= 0.01
    assert not comparison.noisy


def test_the_interval_knows_about_luck_that_lasts_as_long_as_a_process() -> None:
    """Many rounds in few processes must not look precise."""
    covered = 0
    for seed in range(40):
        machine = Machine(process_spread=0.02, noise=0.02)
        machine.random = np.random.default_rng(seed)
        comparison, *_ = run(machine, tolerance=0.03)
        covered += abs(comparison.log_ratio.mean) <= comparison.log_ratio.half_width
    assert covered >= 34


def test_an_exhausted_budget_is_said() -> None:
    comparison, *_ = run(Machine(process_spread=0.2), tolerance=0.001, seconds=1e-6)
    assert len(comparison.passes) == protocol.MIN_PASSES_IN_HASTE
    assert comparison.noisy


def test_interrupted_rounds_are_repeated_while_patience_lasts() -> None:
    comparison, *_ = run(Machine(interrupt=0.3), patience_seconds=60.0)
    assert comparison.interrupted > 0
    assert all(
        block.cpu_share > 0.9
        for rounds in comparison.passes
        for turn in rounds
        for block in (turn.candidate, turn.reference)
    )


def test_interrupted_rounds_count_when_patience_is_over() -> None:
    comparison, candidate, _ = run(Machine(interrupt=1.0), patience_seconds=0.0)
    assert comparison.interrupted == 0
    assert comparison.ratio("cpu") == pytest.approx(1.0)
    assert candidate.latency("wall").mean == pytest.approx(6.0)


def test_a_models_own_latency_leaves_interrupted_blocks_out() -> None:
    _, candidate, _ = run(Machine(interrupt=0.3))
    assert candidate.latency("wall").mean == pytest.approx(3.0)
    assert candidate.times("wall").max() == pytest.approx(3.0)


def test_off_the_cpu_nothing_counts_as_interrupted() -> None:
    timer = Timer(cpu_bound=False, usual_share=1.0, block_ms=10.0)
    assert not timer.interrupted(Block(np.array([2.0]), np.array([0.0])))


def test_waiting_ends_when_the_machine_is_quiet() -> None:
    busy = iter([True, True, False])
    patience = Patience(10.0, lambda: next(busy))
    patience.wait_until_quiet(step=0.001)
    assert patience.spent == pytest.approx(0.002)


def test_waiting_is_bounded() -> None:
    patience = Patience(0.01, lambda: True)
    patience.wait_until_quiet(step=0.004)
    assert patience.spent == pytest.approx(0.01)
    assert not patience.left
