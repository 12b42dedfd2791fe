"""From timed blocks to a latency ratio with a confidence interval.

A block is a short run of calls of one model. A round is a block of the candidate next to a
block of the reference, so that both saw the same machine; its value is the logarithm of the
ratio of their medians. The estimate is a trimmed mean (Yuen 1974) over the rounds of all passes, so
that rounds that were disturbed, and passes that were disturbed as a whole, have little say in it.
Its error counts the rounds of a pass as having something in common, the same two processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Clock = Literal["cpu", "wall"]

TRIMMED_SHARE = 0.25
"""Share of the rounds that is set aside at either end: of four rounds the fastest and the slowest.

Where a tenth of the rounds is disturbed that lowers the error by a third; where none is, it
raises it by less than a tenth.
"""

UNINTERRUPTED = 0.9
"""A block is quiet where its CPU time per wall time is at least this share of what is usual."""

CALLS_FOR_P90 = 64
"""Timed calls from which on the 90th percentile is reported."""

CALLS_FOR_P99 = 662
"""Timed calls from which on the 99th percentile is reported: some six of them are slower."""


@dataclass(frozen=True)
class Block:
    """Times of consecutive calls of one model in milliseconds, ``[calls]`` each.

    ``interrupted`` says that something else ran on its CPUs meanwhile.
    """

    wall_ms: NDArray[np.float64]
    cpu_ms: NDArray[np.float64]
    interrupted: bool = False
    _medians: dict[Clock, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_nanoseconds(cls, wall: Sequence[int], cpu: Sequence[int]) -> Self:
        return cls(np.asarray(wall, dtype=np.float64) / 1e6, np.asarray(cpu, dtype=np.float64) / 1e6)

    def times(self, clock: Clock) -> NDArray[np.float64]:
        return self.cpu_ms if clock == "cpu" else self.wall_ms

    def median(self, clock: Clock) -> float:
        """Computed once: every pass of a measurement looks at all blocks again."""
        if clock not in self._medians:
            self._medians[clock] = float(np.median(self.times(clock)))
        return self._medians[clock]

    def flagged(self, interrupted: bool) -> Block:
        return replace(self, interrupted=interrupted)

    @property
    def cpu_share(self) -> float:
        """CPU time per wall time: the number of busy threads while nothing interrupts them."""
        return float(self.cpu_ms.sum() / self.wall_ms.sum())


@dataclass(frozen=True)
class Round:
    """A block of the candidate and a block of the reference, one right after the other.

    Attributes:
        candidate_first: the order of the two.
        repeated: something interrupted it and it was made again, so it does not count.
    """

    candidate: Block
    reference: Block
    candidate_first: bool = True
    repeated: bool = False

    @property
    def interrupted(self) -> bool:
        return self.candidate.interrupted or self.reference.interrupted

    def log_ratio(self, clock: Clock) -> float:
        return math.log(self.candidate.median(clock) / self.reference.median(clock))


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and the half-width of its 95 % interval."""

    mean: float
    stderr: float
    half_width: float
    samples: int

    def covers(self, value: float) -> bool:
        return abs(self.mean - value) <= self.half_width

    def widened(self, factor: float) -> Estimate:
        """The same mean with a standard error and an interval that are ``factor`` times as wide."""
        return replace(self, stderr=self.stderr * factor, half_width=self.half_width * factor)


def plain_mean(values: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """The mean of independent values with Student's interval; infinite for fewer than two values.

    Raises:
        ValueError: there are no values.
    """
    return trimmed_mean(values, 0.0)


def trimmed_mean(values: Sequence[float] | NDArray[np.float64], share: float = TRIMMED_SHARE) -> Estimate:
    """The mean without the ``share`` lowest and highest values.

    Fewer than two values have an infinite interval.

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    if count == 0:
        raise ValueError("an estimate needs at least one value")
    kept = _kept(values, share)
    mean = float(kept.mean())
    if count < 2:
        return Estimate(mean, math.inf, math.inf, count)
    winsorized = np.clip(values, kept[0], kept[-1])
    squares = float(((winsorized - winsorized.mean()) ** 2).sum())
    stderr = math.sqrt(squares / (len(kept) * (len(kept) - 1)))
    return Estimate(mean, stderr, student_t_95(len(kept) - 1) * stderr, count)


def clustered_mean(
    groups: Sequence[Sequence[float]], least_spread: float = 0.0, share: float = TRIMMED_SHARE
) -> Estimate:
    """The trimmed mean of values that come in groups, whose members may have something in common.

    All values are trimmed together, so that a group in which everything was disturbed has little
    say. The standard error is that of a trimmed mean, times the root of the design effect
    ``1 + (size - 1) * rho`` (Kish 1965), where the share ``rho`` of the variance that is between
    groups is estimated from the winsorized values; and no less than ``least_spread`` makes it. An
    error that the groups' differences make is known from as few values as there are groups, and has
    their degrees of freedom; otherwise those of all values.

    Args:
        groups: of at least one value each.
        least_spread: standard deviation between groups that is assumed whatever few groups show.

    Fewer than two groups have an infinite interval.

    Raises:
        ValueError: there are no values.
    """
    values = np.concatenate([np.asarray(group, dtype=np.float64) for group in groups]) if groups else np.empty(0)
    pooled = trimmed_mean(values, share)
    count, number = len(values), len(groups)
    if number < 2:
        return replace(pooled, stderr=math.inf, half_width=math.inf)
    kept = _kept(values, share)
    sizes = [len(group) for group in groups]
    winsorized = np.split(np.clip(values, kept[0], kept[-1]), np.cumsum(sizes)[:-1])
    center = np.concatenate(winsorized).mean()
    between = sum(len(group) * (group.mean() - center) ** 2 for group in winsorized) / (number - 1)
    within = sum(((group - group.mean()) ** 2).sum() for group in winsorized) / max(count - number, 1)
    size = count / number
    common = max((between - within) / size, 0.0)
    effect = 1 + (size - 1) * common / (common + within) if common > 0 else 1.0
    found, assumed = effect * pooled.stderr**2, pooled.stderr**2 + least_spread**2 / number
    degrees = number - 1 if found > assumed else len(kept) - 1
    stderr = math.sqrt(max(found, assumed))
    return Estimate(pooled.mean, stderr, student_t_95(degrees) * stderr, count)


def _kept(values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The values without the ``share`` lowest and highest, ascending."""
    cut = int(share * len(values))
    return np.sort(values)[cut : len(values) - cut]


def student_t_95(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t distribution.

    Closed forms for one and two degrees of freedom, else the expansion in powers of
    1/degrees around the normal quantile (Abramowitz and Stegun 26.7.5), within 0.8 %.
    """
    if degrees < 1:
        return math.inf
    if degrees == 1:
        return 12.7062
    if degrees == 2:
        return 4.30265
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))


def percentiles(times: NDArray[np.float64]) -> dict[str, float]:
    """``p50_ms`` always; ``p90_ms`` and ``p99_ms`` only where the calls suffice to know them."""
    found = {"p50_ms": float(np.quantile(times, 0.5))}
    if len(times) >= CALLS_FOR_P90:
        found["p90_ms"] = float(np.quantile(times, 0.9))
    if len(times) >= CALLS_FOR_P99:
        found["p99_ms"] = float(np.quantile(times, 0.99))
    return found


def kendall_tau(first: Sequence[float] | NDArray[np.float64], second: Sequence[float] | NDArray[np.float64]) -> float:
    """Kendall's tau-b of two rankings, in [-1, 1]: 1 where they agree; ties are allowed for.

    NaN where one of them has no order at all: fewer than two values, or all the same.

    Raises:
        ValueError: they have different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be ranked against each other")
    above = np.triu_indices(len(first), 1)
    signs = [np.sign(np.subtract.outer(values, values))[above] for values in map(np.asarray, (first, second))]
    untied = math.sqrt(float(np.abs(signs[0]).sum() * np.abs(signs[1]).sum()))
    return float((signs[0] * signs[1]).sum()) / untied if untied else math.nan
