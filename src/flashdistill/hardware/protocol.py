"""The measurement loop: rounds of candidate and reference until the ratio is known well enough.

    candidate reference | reference candidate | candidate reference | …      (ABBA)

A round is a block of calls of either model. The two see the same machine within a fraction of a
second, so what slows the machine down slows both and leaves their ratio alone; alternating the
order cancels a steady drift. Blocks are short, because the disturbances that remain last longer
than any block: many short rounds know the ratio better than a few long ones in the same time.

Rounds are grouped into passes, and every pass runs both models in new processes. Where a process
and its weights come to lie in memory changes its speed for as long as it lives (Mytkowicz et al.
2009 call this measurement bias), by a percent or two where weights lie in small pages. No number of
rounds averages that away. So the estimate is a trimmed mean over all rounds, but its error counts
the rounds of a pass as having something in common (`statistics.clustered_mean`).

Passes go on until the interval is narrow enough. Whoever looks again and again and stops at the
first interval that pleases him stops where the spread happened to look small; after the first look
intervals are therefore widened (`LATER_LOOKS`). In simulations with normal and heavy-tailed rounds,
and with passes that are disturbed as a whole, the 95 % interval covers the truth in 92 or more of
100 measurements, however many rounds a pass has, while processes differ by up to three percent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flashdistill.hardware.machine import ContentionMeter
from flashdistill.hardware.settings import MeasurementSettings
from flashdistill.hardware.statistics import (
    UNINTERRUPTED,
    Block,
    Clock,
    Estimate,
    Round,
    clustered_mean,
    trimmed_mean,
)

MIN_PASSES = 4
"""Fewer passes hardly tell what processes differ by; no measurement ends before."""

PROCESS_SPREAD = 0.004
"""Standard deviation of the logarithm of a ratio that two processes keep for as long as they live.

It is taken for at least as large, however alike a few passes are. Between eight pairs of processes
of one 24-block student it was 0.0057 where rounds alone explained 0.0055.
"""

LATER_LOOKS = 1.1
"""By how much intervals from more than `MIN_PASSES` passes are wider than Student's."""

ROUNDS_PER_PASS = 4
"""At least."""

WORTHWHILE_ROUNDS = 40
"""Where the budget allows, a pass has as many, or takes as long as starting it took, whatever is more.

With rounds that scatter by 4 % (60 ms a call; 2 % for fast models), pairs of processes that differ
by 0.4 % and 1.5 s to start a pair, the error after a given time is least with about 40 rounds a pass.
"""

_CALLS_PER_BLOCK = (2, 2000)
_SETTLING_CALLS = 2


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
        settled = self._run(_SETTLING_CALLS)
        if not self.calls:
            lowest, highest = _CALLS_PER_BLOCK
            # The faster of two short blocks: an interruption must not shorten all blocks to come.
            call_ms = min(settled.median("wall"), self._run(lowest).median("wall"))
            self.calls = min(max(math.ceil(self.block_ms / max(call_ms, 1e-6)) + 1, lowest), highest)
        self.passes.append([])

    def block(self) -> Block:
        """Time a block, flagged where something interrupted it; that is never known off the CPU."""
        block = self._run(self.calls)
        block = block.flagged(self.cpu_bound and block.cpu_share < UNINTERRUPTED * self.usual_share)
        self.passes[-1].append(block)
        return block

    def times_of_passes(self, clock: Clock) -> list[NDArray[np.float64]]:
        """Milliseconds of every call in the quiet blocks, by pass."""
        return [np.concatenate([block.times(clock) for block in _quiet(one_pass)]) for one_pass in self.passes]

    def times(self, clock: Clock) -> NDArray[np.float64]:
        """Milliseconds of every call in the quiet blocks of all passes."""
        return np.concatenate(self.times_of_passes(clock))

    def latency(self, clock: Clock) -> Estimate:
        """The model's own latency in milliseconds, regardless of the other's: over passes."""
        return trimmed_mean(
            [float(np.median([block.median(clock) for block in _quiet(one_pass)])) for one_pass in self.passes]
        )

    def _run(self, calls: int) -> Block:
        assert self._model is not None
        block = self._model.run(calls)
        self.usual_share = max(self.usual_share, block.cpu_share)
        return block


def _quiet(blocks: list[Block]) -> list[Block]:
    """The blocks that were not interrupted; all of them where every one was."""
    return [block for block in blocks if not block.interrupted] or blocks


@dataclass(frozen=True)
class Comparison:
    """How the candidate compares to the reference.

    Attributes:
        attempts: all rounds in the order in which they were made, by pass.
        log_ratio: of the chosen clock.
        noisy: the budget ended before the interval was narrow enough, or before there were enough calls.
        waited_seconds: spent on waiting and on repeated rounds.
    """

    attempts: list[list[Round]]
    log_ratio: Estimate
    noisy: bool
    waited_seconds: float

    @property
    def passes(self) -> list[list[Round]]:
        """The rounds that count, by pass."""
        return [[turn for turn in rounds if not turn.repeated] for rounds in self.attempts]

    @property
    def rounds(self) -> int:
        return sum(len(rounds) for rounds in self.passes)

    @property
    def interrupted(self) -> int:
        """Rounds that were repeated because something interrupted them."""
        return sum(turn.repeated for rounds in self.attempts for turn in rounds)

    def ratio(self, clock: Clock) -> float:
        return math.exp(log_ratio(self.attempts, clock).mean)


def log_ratio(passes: list[list[Round]], clock: Clock) -> Estimate:
    """Logarithm of the latency ratio, from all rounds that count, with the error that passes in common leave."""
    values = [[turn.log_ratio(clock) for turn in rounds if not turn.repeated] for rounds in passes]
    estimate = clustered_mean(values, PROCESS_SPREAD)
    return estimate.widened(LATER_LOOKS) if len(values) > MIN_PASSES else estimate


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
    min_calls: int = 0,
) -> Comparison:
    """Alternate both models until the ratio's 95 % interval is within ``tolerance``.

    An interrupted round is repeated while patience is left; then it counts like any other, and
    the trimming and the interval have to bear it. The budget of ``settings.seconds`` covers
    starting, loading and the rounds that count.

    Args:
        min_calls: quiet calls of the candidate that are wanted, for percentiles. Passes become long
            enough for them, as far as the budget goes.
    """
    patience = patience or Patience(settings.patience_seconds)
    attempts: list[list[Round]] = []
    begin = time.monotonic()
    while True:
        patience.wait_until_quiet()
        start = time.monotonic()
        with start_pair() as (candidate_model, reference_model):
            candidate.begin_pass(candidate_model)
            reference.begin_pass(reference_model)
            ready_after = time.monotonic() - start
            share = settings.seconds / MIN_PASSES
            length = _Length(min(ready_after, share / 2), share / 2, share, math.ceil(min_calls / MIN_PASSES))
            attempts.append(_one_pass(candidate, reference, candidate_first, length, patience))
        candidate_first = not candidate_first
        estimate = log_ratio(attempts, clock)
        reached = estimate.half_width <= tolerance and (not min_calls or len(candidate.times(clock)) >= min_calls)
        spent = time.monotonic() - begin - patience.spent
        late = spent + spent / len(attempts) > settings.seconds  # another pass would not fit
        if len(attempts) >= MIN_PASSES and (reached or late):
            return Comparison(attempts, estimate, not reached, patience.spent)


@dataclass(frozen=True)
class _Length:
    """How long a pass goes on: for ``seconds``, until there are `WORTHWHILE_ROUNDS`, and ``calls``.

    Attributes:
        seconds_for_rounds: that the number of rounds may take at most.
        seconds_for_calls: that the number of calls may take at most.
    """

    seconds: float
    seconds_for_rounds: float
    seconds_for_calls: float
    calls: int


def _one_pass(
    candidate: Timer, reference: Timer, candidate_first: bool, length: _Length, patience: Patience
) -> list[Round]:
    """Rounds of a pass, each order equally often among those that count."""
    rounds: list[Round] = []
    counted, calls, spent = 0, 0, 0.0
    while (
        counted < ROUNDS_PER_PASS
        or counted % 2
        or spent < length.seconds
        or (counted < WORTHWHILE_ROUNDS and spent < length.seconds_for_rounds)
        or (calls < length.calls and spent < length.seconds_for_calls)
    ):
        start = time.monotonic()
        turn = _round(candidate, reference, candidate_first == (counted % 2 == 0))
        elapsed = time.monotonic() - start
        if turn.interrupted and patience.left:
            patience.spent += elapsed
            rounds.append(replace(turn, repeated=True))
            continue
        rounds.append(turn)
        counted += 1
        calls += 0 if turn.candidate.interrupted else len(turn.candidate.wall_ms)
        spent += elapsed
    return rounds


def _round(candidate: Timer, reference: Timer, candidate_first: bool) -> Round:
    if candidate_first:
        first = candidate.block()
        return Round(first, reference.block(), candidate_first)
    first = reference.block()
    return Round(candidate.block(), first, candidate_first)
