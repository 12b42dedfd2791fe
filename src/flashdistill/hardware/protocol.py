"""The measurement loop: rounds of candidate and reference until the ratio is known well enough.

    candidate reference | reference candidate | candidate reference | …      (ABBA)

A round is a block of calls of either model. The two see the same machine within a fraction of a
second, so what slows the machine down slows both and leaves their ratio alone; alternating the
order cancels a steady drift. Blocks are short, because the disturbances that remain last longer
than any block: many short rounds know the ratio better than a few long ones in the same time.

Rounds are grouped into passes, and every pass runs both models in new processes. Where a process
and its weights come to lie in memory changes its speed by a percent or two, sometimes by four, for
as long as it lives (Mytkowicz et al. 2009 call this measurement bias). No number of rounds
averages that away, and an interval from rounds alone would not contain the truth. Passes are
therefore the observations, and rounds only sharpen each of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flashdistill.hardware.machine import ContentionMeter
from flashdistill.hardware.settings import MeasurementSettings
from flashdistill.hardware.statistics import UNINTERRUPTED, Block, Clock, Estimate, Round, trimmed_mean

MIN_PASSES = 6
"""Fewer passes do not tell their own spread; no tolerance counts as reached before."""

MIN_PASSES_IN_HASTE = 4
"""Passes that are made even where they take longer than the budget."""

ROUNDS_PER_PASS = 4
"""At least. Fast models get more: half of the time goes into timing, the rest into starting."""

_CALLS_PER_BLOCK = (3, 2000)
_SETTLING_CALLS = 4


class TimedModel(Protocol):
    """Something whose calls can be timed; a `RunnerProcess` with a loaded model."""

    def run(self, count: int) -> Block:
        """Times of ``count - 1`` calls that follow a dropped first one."""
        ...


StartPair = Callable[[], AbstractContextManager[tuple[TimedModel, TimedModel]]]
"""Starts the candidate and the reference, loaded and checked, and ends them with the block."""


def _machine_is_busy() -> Callable[[], bool]:
    meter = ContentionMeter()
    return lambda: meter.look().busy


class Patience:
    """Seconds that one measurement may spend on waiting and on repeating what was disturbed.

    Args:
        seconds: the budget.
        is_busy: whether others use the machine now; by default what the kernel tells.
    """

    def __init__(self, seconds: float, is_busy: Callable[[], bool] | None = None):
        self.budget = seconds
        self.spent = 0.0
        self._is_busy = is_busy or _machine_is_busy()

    @property
    def left(self) -> bool:
        return self.spent < self.budget

    def wait_until_quiet(self, step: float = 0.25) -> None:
        """Sleep while the machine is busy and patience is left."""
        while self.left and self._is_busy():
            pause = min(step, self.budget - self.spent)
            time.sleep(pause)
            self.spent += pause


@dataclass
class Timer:
    """Runs blocks of one model and remembers their times over all passes.

    Attributes:
        cpu_bound: whether the model runs on this machine's CPU threads.
        usual_share: CPU time per wall time of an undisturbed block: 1 for one thread; otherwise
            the largest seen, because threads that wait for each other lower it.
        block_ms: how long a block shall last.
        calls: calls of a block, the dropped one included; 0 until the first pass decides it.
        passes: the blocks of each pass.
    """

    cpu_bound: bool
    usual_share: float
    block_ms: float
    calls: int = 0
    passes: list[list[Block]] = field(default_factory=list)
    _model: TimedModel | None = None

    def begin_pass(self, model: TimedModel) -> None:
        """Turn to a freshly started process of the model and let it settle."""
        self._model = model
        model.run(_SETTLING_CALLS)
        if not self.calls:
            lowest, highest = _CALLS_PER_BLOCK
            # The faster of two short blocks: an interruption must not shorten all blocks to come.
            call_ms = min(model.run(lowest).median("wall") for _ in range(2))
            self.calls = min(max(math.ceil(self.block_ms / max(call_ms, 1e-6)) + 1, lowest), highest)
        self.passes.append([])

    def block(self) -> Block:
        assert self._model is not None
        block = self._model.run(self.calls)
        self.usual_share = max(self.usual_share, block.cpu_share)
        self.passes[-1].append(block)
        return block

    def interrupted(self, block: Block) -> bool:
        """Whether something else ran on the block's CPUs; never known off the CPU."""
        return self.cpu_bound and block.cpu_share < UNINTERRUPTED * self.usual_share

    def times(self, clock: Clock) -> NDArray[np.float64]:
        """Milliseconds of every call in the quiet blocks of all passes."""
        blocks = [block for one_pass in self.passes for block in self._quiet(one_pass)]
        return np.concatenate([block.times(clock) for block in blocks])

    def latency(self, clock: Clock) -> Estimate:
        """The model's own latency in milliseconds, regardless of the other's: over passes."""
        return trimmed_mean(
            [float(np.median([block.median(clock) for block in self._quiet(one_pass)])) for one_pass in self.passes]
        )

    def _quiet(self, blocks: list[Block]) -> list[Block]:
        """The blocks that were not interrupted; all of them where every one was."""
        return [block for block in blocks if not self.interrupted(block)] or blocks


@dataclass(frozen=True)
class Comparison:
    """How the candidate compares to the reference.

    Attributes:
        passes: the rounds that count, by pass.
        interrupted: rounds that were repeated because something interrupted them.
        log_ratio: of the chosen clock.
        noisy: the budget ended before the interval was narrow enough.
        waited_seconds: spent on waiting and on repeated rounds.
    """

    passes: list[list[Round]]
    interrupted: int
    log_ratio: Estimate
    noisy: bool
    waited_seconds: float

    @property
    def rounds(self) -> int:
        return sum(len(rounds) for rounds in self.passes)

    def ratio(self, clock: Clock) -> float:
        return math.exp(log_ratio(self.passes, clock).mean)


def log_ratio(passes: list[list[Round]], clock: Clock) -> Estimate:
    """Logarithm of the latency ratio; passes, not rounds, are its independent observations."""
    return trimmed_mean([trimmed_mean([turn.log_ratio(clock) for turn in rounds]).mean for rounds in passes])


def compare(
    start_pair: StartPair,
    candidate: Timer,
    reference: Timer,
    settings: MeasurementSettings,
    clock: Clock,
    *,
    tolerance: float,
    candidate_first: bool = True,
    patience: Patience | None = None,
) -> Comparison:
    """Alternate both models until the ratio's 95 % interval is within ``tolerance``.

    An interrupted round is repeated while patience is left; then it counts like any other, and
    the trimming and the interval have to bear it. The budget of ``settings.seconds`` covers
    starting, loading and the rounds that count.
    """
    patience = patience or Patience(settings.patience_seconds)
    passes: list[list[Round]] = []
    interrupted, begin = 0, time.monotonic()
    while True:
        patience.wait_until_quiet()
        start = time.monotonic()
        with start_pair() as (candidate_model, reference_model):
            candidate.begin_pass(candidate_model)
            reference.begin_pass(reference_model)
            ready_after = time.monotonic() - start
            timing = min(ready_after, settings.seconds / (2 * MIN_PASSES))
            rounds, repeated = _one_pass(candidate, reference, candidate_first, timing, patience)
        passes.append(rounds)
        interrupted += repeated
        candidate_first = not candidate_first
        estimate = log_ratio(passes, clock)
        precise = len(passes) >= MIN_PASSES and estimate.half_width <= tolerance
        late = time.monotonic() - begin - patience.spent >= settings.seconds
        if precise or (late and len(passes) >= MIN_PASSES_IN_HASTE):
            noisy = estimate.half_width > tolerance
            return Comparison(passes, interrupted, estimate, noisy, patience.spent)


def _one_pass(
    candidate: Timer, reference: Timer, candidate_first: bool, seconds: float, patience: Patience
) -> tuple[list[Round], int]:
    """Rounds for at least ``seconds``, each order equally often; how many had to be repeated."""
    rounds: list[Round] = []
    interrupted, spent = 0, 0.0
    while len(rounds) < ROUNDS_PER_PASS or spent < seconds or len(rounds) % 2:
        start = time.monotonic()
        turn = _round(candidate, reference, candidate_first == (len(rounds) % 2 == 0))
        elapsed = time.monotonic() - start
        if patience.left and (candidate.interrupted(turn.candidate) or reference.interrupted(turn.reference)):
            patience.spent += elapsed
            interrupted += 1
        else:
            rounds.append(turn)
            spent += elapsed
    return rounds, interrupted


def _round(candidate: Timer, reference: Timer, candidate_first: bool) -> Round:
    if candidate_first:
        first = candidate.block()
        return Round(first, reference.block())
    first = reference.block()
    return Round(candidate.block(), first)
