"""What a self-test of the measurements found, and whether it is good enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from flashdistill.core.measurement import Measurement
from flashdistill.core.seeds import generator
from flashdistill.hardware.statistics import kendall_tau, plain_mean

MAX_CV_QUIET = 0.005
MAX_CV_LOADED = 0.015
"""Largest standard deviation of null ratios over their mean on a quiet and on a loaded machine."""

MIN_TAU = 0.95
"""Smallest rank correlation between two passes."""

LOADED_SHARE = 0.1
"""The machine counts as loaded where more than this share of the looks at it found it busy."""

_UNLIKELY = 0.025
"""Less probable misses of honest 95 % intervals are not put down to chance."""

_RESAMPLES = 1000


@dataclass(frozen=True)
class RatioInterval:
    """A measured ratio with its 95 % interval."""

    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, latency: Measurement) -> RatioInterval:
        return cls(*(float(latency.details[name] or math.nan) for name in ("ratio", "ratio_low", "ratio_high")))

    def covers(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class NullTest:
    """Independent measurements of a model against itself."""

    ratios: list[RatioInterval]
    max_cv: float

    @property
    def mean(self) -> float:
        return math.exp(plain_mean([math.log(one.ratio) for one in self.ratios]).mean)

    @property
    def cv(self) -> float:
        """Standard deviation of the ratios over their mean."""
        values = np.array([one.ratio for one in self.ratios])
        return float(values.std(ddof=1) / values.mean())

    @property
    def covering(self) -> int:
        return sum(one.covers(1.0) for one in self.ratios)

    @property
    def least_covering(self) -> int:
        """The fewest covering intervals that honest 95 % intervals leave to chance."""
        return fewest_by_chance(len(self.ratios))

    @property
    def covers_1(self) -> bool:
        return self.covering >= self.least_covering

    @property
    def passed(self) -> bool:
        return self.cv <= self.max_cv and self.covers_1


@dataclass(frozen=True)
class KnownRatioTest:
    """A ratio that is known by construction."""

    measured: RatioInterval
    expected: float
    tolerance: float

    @property
    def error(self) -> float:
        """Relative, with its sign."""
        return self.measured.ratio / self.expected - 1

    @property
    def passed(self) -> bool:
        return self.measured.covers(self.expected) or abs(self.error) <= self.tolerance


@dataclass(frozen=True)
class RankTest:
    """Latencies in milliseconds of the same architectures in two passes, ``[architectures]`` each."""

    names: list[str]
    first_ms: list[float]
    second_ms: list[float]

    @property
    def tau(self) -> float:
        return kendall_tau(self.first_ms, self.second_ms)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of tau, bootstrapped over architectures."""
        random = generator("kendall-tau", len(self.names))
        pairs = np.array([self.first_ms, self.second_ms])
        draws = (random.integers(len(self.names), size=len(self.names)) for _ in range(_RESAMPLES))
        taus = [kendall_tau(*pairs[:, chosen]) for chosen in draws]
        low, high = np.nanquantile(taus, (0.025, 0.975))
        return float(low), float(high)

    @property
    def swapped_pairs(self) -> int:
        """Pairs that the passes put in opposite orders."""
        values = zip(self.first_ms, self.second_ms, strict=True)
        return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(values, 2))

    @property
    def largest_disagreement(self) -> tuple[str, float]:
        """The architecture whose latency changed most, and by what factor.

        Relative to how all changed, since each pass has a reference latency of its own.
        """
        change = np.log(np.array(self.second_ms) / np.array(self.first_ms))
        change -= np.median(change)
        worst = int(np.argmax(np.abs(change)))
        return self.names[worst], float(np.exp(change[worst]))

    @property
    def passed(self) -> bool:
        return self.tau >= MIN_TAU


@dataclass(frozen=True)
class Load:
    """Whether others used the machine, looked at after every measurement."""

    busy: list[bool]

    @property
    def busy_share(self) -> float:
        return sum(self.busy) / len(self.busy)

    @property
    def loaded(self) -> bool:
        return self.busy_share > LOADED_SHARE


@dataclass(frozen=True)
class SelfTest:
    """The outcome; ``environment`` is that of the measurements."""

    null: NullTest
    known_ratio: KnownRatioTest
    rank: RankTest
    load: Load
    seconds: float
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        return self.null.passed and self.known_ratio.passed and self.rank.passed

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON types: the verdict and the key figures first."""
        null, known, rank, load = self.null, self.known_ratio, self.rank, self.load
        worst, factor = rank.largest_disagreement
        return {
            "passed": self.passed,
            "null_ratio_cv": null.cv,
            "null_ci_covers_1": null.covers_1,
            "known_ratio": known.measured.ratio,
            "kendall_tau": rank.tau,
            "seconds": self.seconds,
            "null_test": {
                "passed": null.passed,
                "ratio_mean": null.mean,
                "max_cv": null.max_cv,
                "intervals": len(null.ratios),
                "intervals_covering_1": null.covering,
                "least_covering": null.least_covering,
                "ratios": [asdict(one) for one in null.ratios],
            },
            "known_ratio_test": {
                "passed": known.passed,
                "expected": known.expected,
                **asdict(known.measured),
                "tolerance": known.tolerance,
            },
            "rank_test": {
                "passed": rank.passed,
                "min_kendall_tau": MIN_TAU,
                "kendall_tau_interval": list(rank.interval),
                "swapped_pairs": rank.swapped_pairs,
                "largest_disagreement": {"architecture": worst, "factor": factor},
                "architectures": [
                    {"architecture": name, "first_ms": first, "second_ms": second}
                    for name, first, second in zip(rank.names, rank.first_ms, rank.second_ms, strict=True)
                ],
            },
            "machine": {
                "loaded": load.loaded,
                "busy_share": load.busy_share,
                "looks": len(load.busy),
            },
            "settings": dict(self.settings),
            "environment": dict(self.environment),
        }


def fewest_by_chance(count: int, coverage: float = 0.95) -> int:
    """The smallest number of ``count`` intervals that may cover before it is too unlikely to be chance."""
    probability = 0.0
    for covering in range(count + 1):
        probability += math.comb(count, covering) * coverage**covering * (1 - coverage) ** (count - covering)
        if probability > _UNLIKELY:
            return covering
    return count
