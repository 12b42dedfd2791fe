"""Whether to believe a measurement: three tests whose answers are known beforehand.

- A model against itself, as independent measurements: the ratios must scatter little around one,
  and the intervals must contain it.
- A candidate that does exactly one and a half times the work of the reference.
- Two independent passes over many architectures: they must agree on the ranking.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, tracked
from flashdistill.core.seeds import generator
from flashdistill.hardware.protocol import TimedModel
from flashdistill.hardware.self_test_result import (
    MAX_CV_LOADED,
    MAX_CV_QUIET,
    KnownRatioTest,
    Load,
    NullTest,
    RankTest,
    RatioInterval,
    SelfTest,
)
from flashdistill.hardware.statistics import Block

CANDIDATE_REPEATS, REFERENCE_REPEATS = 3, 2
"""Inferences that the known-ratio test counts as one call of either side."""

KNOWN_RATIO = CANDIDATE_REPEATS / REFERENCE_REPEATS

_TASK = "self-test"


class Bench(Protocol):
    """What the tests are made with; every call is a measurement of its own (``latency_ms``)."""

    @property
    def names(self) -> Sequence[str]:
        """The architectures that are ranked."""
        ...

    def null(self, repetition: int) -> Measurement:
        """The reference against itself, in a session of its own."""
        ...

    def known_ratio(self) -> Measurement:
        """`KNOWN_RATIO` times the reference against the reference, with `Repeated`."""
        ...

    def ranking_pass(self, repetition: int) -> AbstractContextManager[Measure]:
        """A session of its own, in which architectures are measured."""
        ...

    def is_busy(self) -> bool:
        """Whether others use the machine now."""
        ...


class Measure(Protocol):
    def __call__(self, name: str) -> Measurement: ...


class Repeated:
    """Takes several inferences of a model for one call of another, slower one."""

    def __init__(self, model: TimedModel, repeats: int):
        self._model, self._repeats = model, repeats

    def run(self, count: int) -> Block:
        """Times of ``count - 1`` calls; the inferences of the first, dropped call are dropped."""
        block = self._model.run(count * self._repeats)
        # The model has dropped its first inference itself.
        wall, cpu = (
            times[self._repeats - 1 :].reshape(count - 1, self._repeats).sum(axis=1)
            for times in (block.wall_ms, block.cpu_ms)
        )
        return Block(wall, cpu)


def self_test(
    bench: Bench, settings: Mapping[str, Any], tolerance: float, progress: Progress, *, repetitions: int = 8
) -> SelfTest:
    """Make the three tests.

    Args:
        settings: the target's, for the record.
        tolerance: what a known ratio may be off where its interval does not cover it.
        repetitions: of the null test; at least two.
    """
    begin = time.monotonic()
    busy: list[bool] = []

    def noted(measured: Measurement, name: str) -> Measurement:
        busy.append(bench.is_busy())
        progress.advance(_TASK, note=name)
        return measured

    with tracked(progress, _TASK, repetitions + 1 + 2 * len(bench.names)):
        nulls = [noted(bench.null(number), "null test") for number in range(repetitions)]
        known = noted(bench.known_ratio(), "known ratio")
        passes = []
        for number in range(2):
            order: list[int] = generator("self-test-order", number).permutation(len(bench.names)).tolist()
            with bench.ranking_pass(number) as measure:
                found = {index: noted(measure(bench.names[index]), bench.names[index]).value for index in order}
            passes.append([found[index] for index in range(len(bench.names))])
    load = Load(busy)
    return SelfTest(
        NullTest([RatioInterval.of(one) for one in nulls], MAX_CV_LOADED if load.loaded else MAX_CV_QUIET),
        KnownRatioTest(RatioInterval.of(known), KNOWN_RATIO, tolerance),
        RankTest(list(bench.names), *passes),
        load,
        time.monotonic() - begin,
        settings,
        nulls[0].environment,
    )
