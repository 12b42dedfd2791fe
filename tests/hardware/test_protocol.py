"""The measurement loop on simulated models, whose true ratio is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

from flashdistill.hardware import protocol
from flashdistill.hardware.protocol import Comparison, Patience, Timer, compare, log_ratio
from flashdistill.hardware.settings import MeasurementSettings
from flashdistill.hardware.statistics import Block, Round, clustered_mean
from tests.faults_catalogue import fault


class Machine:
    """A simulated machine: drifting, noisy, with processes of different luck.

    Attributes:
        process_spread: standard deviation of the logarithm of a process's speed.
        drift: relative slow-down per block.
        interrupt: the probability that another task takes half of a block's wall time.
        now: its clock in seconds, which moves by what its models compute, and by starting them.
    """

    def __init__(self, *, process_spread: float = 0.0, noise: float = 0.0, drift: float = 0.0, interrupt: float = 0.0):
        self.random = np.random.default_rng(0)
        self.process_spread, self.noise, self.drift, self.interrupt = process_spread, noise, drift, interrupt
        self.slowness = 1.0
        self.now = 0.0
        self.order: list[str] = []
        self.starts = 0

    @contextmanager
    def pair(self, candidate_ms: float, reference_ms: float) -> Iterator[tuple[Model, Model]]:
        self.starts += 1
        self.now += 0.1
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
        wall = cpu * (2.0 if machine.random.random() < machine.interrupt else 1.0)
        machine.now += float(wall[0]) * count / 1000
        return Block(wall, cpu)


def run(
    machine: Machine, ratio: float = 1.0, *, min_calls: int = 0, **options: float
) -> tuple[Comparison, Timer, Timer]:
    settings = MeasurementSettings(**{"seconds": 10.0, "patience_seconds": 0.0} | options)  # type: ignore[arg-type]
    candidate, reference = (Timer(True, 1.0, settings.block_ms) for _ in range(2))
    with patch.object(protocol, "time", SimpleNamespace(monotonic=lambda: machine.now)):
        comparison = compare(
            lambda: machine.pair(3.0 * ratio, 3.0),
            candidate,
            reference,
            settings,
            "cpu",
            tolerance=settings.tolerance,
            patience=Patience(settings.patience_seconds, lambda: False),
            min_calls=min_calls,
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
    settling = 2 * 2  # a settling run and one that decides the calls of a block, for either model
    assert machine.order[settling : settling + 8] == ["candidate", "reference", "reference", "candidate"] * 2
    assert [turn.candidate_first for turn in comparison.passes[0][:4]] == [True, False, True, False]
    assert [rounds[0].candidate_first for rounds in comparison.passes[:4]] == [True, False, True, False]
    assert all(len(rounds) % 2 == 0 for rounds in comparison.passes)


def test_a_steady_drift_cancels() -> None:
    comparison, *_ = run(Machine(drift=0.01))
    assert comparison.ratio("cpu") == pytest.approx(1.0, abs=1e-3)


def test_more_passes_until_the_tolerance_is_reached() -> None:
    comparison, *_ = run(Machine(process_spread=0.03), tolerance=0.02, seconds=100.0)
    assert len(comparison.passes) > protocol.MIN_PASSES
    assert comparison.log_ratio.half_width <= 0.02
    assert not comparison.noisy


@fault(17, "processes of different luck (simulated)", "honest interval")
@pytest.mark.parametrize("process_spread", [0.005, 0.01, 0.02])
def test_the_interval_knows_about_luck_that_lasts_as_long_as_a_process(process_spread: float) -> None:
    """Many rounds in few processes must not look precise."""
    covered = 0
    for seed in range(100):
        machine = Machine(process_spread=process_spread, noise=0.02)
        machine.random = np.random.default_rng(seed)
        comparison, *_ = run(machine, tolerance=0.03, seconds=100.0)
        covered += comparison.log_ratio.covers(0.0)
    assert covered >= 91


def one_pass(log_ratios: Iterable[float]) -> list[Round]:
    return [Round(Block(np.array([math.exp(one)]), np.ones(1)), Block(np.ones(1), np.ones(1))) for one in log_ratios]


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("process", [0.0, 0.005, 0.01, 0.02])
@pytest.mark.parametrize(("length", "studies", "least"), [(4, 400, 0.92), (40, 100, 0.91)])
def test_stopping_when_it_looks_precise_does_not_make_the_interval_a_lie(
    length: int, studies: int, least: float, process: float, disturbed: bool
) -> None:
    """The rule for stopping as `compare` applies it, with processes and rounds that differ.

    ``process`` is the standard deviation of what a pass has in common; its rounds scatter by 3 %, heavy
    tailed where ``disturbed``, and then a tenth of the passes is off by some 8 % altogether.
    """
    random = np.random.default_rng(1)
    tolerance, most_passes = 0.02, 12
    covered = 0
    for _ in range(studies):
        common = random.normal(0, process, most_passes)
        rounds = random.normal(0, 0.03, (most_passes, length))
        if disturbed:
            rounds = 0.03 * random.standard_t(3, (most_passes, length)) / math.sqrt(3)
            common += np.where(random.random(most_passes) < 0.1, random.normal(0, 0.08, most_passes), 0.0)
        passes = [one_pass(values) for values in common[:, None] + rounds]
        looks = (log_ratio(passes[:count], "wall") for count in range(protocol.MIN_PASSES, most_passes + 1))
        stopped = next((look for look in looks if look.half_width <= tolerance), log_ratio(passes, "wall"))
        covered += stopped.covers(0.0)
    assert covered / studies >= least


def test_looking_again_widens_the_interval() -> None:
    values = [[0.01, 0.02], [-0.01, 0.0], [0.02, 0.01], [-0.02, 0.01], [0.0, 0.01]]
    for count, factor in ((protocol.MIN_PASSES, 1.0), (protocol.MIN_PASSES + 1, protocol.LATER_LOOKS)):
        look = log_ratio([one_pass(rounds) for rounds in values[:count]], "wall")
        alone = clustered_mean(values[:count], protocol.PROCESS_SPREAD)
        assert (look.mean, look.half_width) == pytest.approx((alone.mean, factor * alone.half_width))


def test_passes_go_on_until_there_are_calls_enough() -> None:
    _, few_timer, _ = run(Machine())
    many, timer, _ = run(Machine(), min_calls=4000, seconds=60.0)
    assert len(few_timer.times("cpu")) < 4000 <= len(timer.times("cpu"))
    assert len(many.attempts) == protocol.MIN_PASSES, "longer passes, not more"
    assert not many.noisy


def test_a_budget_that_ends_before_there_are_calls_enough_is_said() -> None:
    comparison, timer, _ = run(Machine(), min_calls=10**6, seconds=1e-3)
    assert comparison.log_ratio.half_width < 0.02
    assert len(timer.times("cpu")) < 10**6
    assert comparison.noisy


@fault(17, "budget over before the interval is narrow (simulated)", "marked as noisy")
def test_an_exhausted_budget_is_said() -> None:
    comparison, *_ = run(Machine(process_spread=0.2), tolerance=0.001, seconds=1e-6)
    assert len(comparison.passes) == protocol.MIN_PASSES
    assert comparison.noisy


@fault(17, "another task takes turns in a third of the blocks (simulated)", "interrupted rounds repeated")
def test_interrupted_rounds_are_repeated_while_patience_lasts() -> None:
    comparison, *_ = run(Machine(interrupt=0.3), patience_seconds=60.0)
    assert comparison.interrupted > 0
    assert all(
        block.cpu_share > 0.9
        for rounds in comparison.passes
        for turn in rounds
        for block in (turn.candidate, turn.reference)
    )


@fault(17, "another task takes half of all blocks (simulated)", "ratio right by CPU time")
def test_interrupted_rounds_count_when_patience_is_over() -> None:
    comparison, candidate, _ = run(Machine(interrupt=1.0), patience_seconds=0.0)
    assert comparison.interrupted == 0
    assert comparison.ratio("cpu") == pytest.approx(1.0)
    assert candidate.latency("wall").mean == pytest.approx(6.0)


def test_a_models_own_latency_leaves_interrupted_blocks_out() -> None:
    _, candidate, _ = run(Machine(interrupt=0.2))
    assert candidate.latency("wall").mean == pytest.approx(3.0)
    assert candidate.times("wall").max() == pytest.approx(3.0)


def test_repeated_rounds_are_remembered_and_do_not_count() -> None:
    comparison, *_ = run(Machine(interrupt=0.3), patience_seconds=60.0)
    attempts = [turn for rounds in comparison.attempts for turn in rounds]
    assert comparison.interrupted == sum(turn.repeated for turn in attempts)
    assert comparison.rounds == len(attempts) - comparison.interrupted
    assert all(turn.interrupted == turn.repeated for turn in attempts)
    assert all(sum(turn.candidate_first for turn in rounds) * 2 == len(rounds) for rounds in comparison.passes)


def test_off_the_cpu_nothing_counts_as_interrupted() -> None:
    timer = Timer(cpu_bound=False, usual_share=1.0, block_ms=10.0)
    timer.begin_pass(Model(Machine(interrupt=1.0), "candidate", 3.0))
    assert not timer.block().interrupted


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
