"""What a comparison says in figures: the latency, its percentiles, each with a standard error."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flashdistill.core.measurement import METRICS, Measurement, metric_parts
from flashdistill.core.seeds import generator
from flashdistill.hardware.protocol import Comparison, Timer
from flashdistill.hardware.statistics import CALLS_FOR_P90, CALLS_FOR_P99, Clock, percentiles

Facts = Mapping[str, str | int | float | bool | None]

PERCENTILES: dict[str, tuple[float, int]] = {
    "latency_p50_ms": (0.5, 1),
    "latency_p90_ms": (0.9, CALLS_FOR_P90),
    "latency_p99_ms": (0.99, CALLS_FOR_P99),
}
"""Percentile metrics: the share of calls below them, and the calls without which they are absent."""

LATENCIES = ("latency_ms", *PERCENTILES)

_RESAMPLES = 200


def calls_needed(metrics: Collection[str]) -> int:
    """The ``min_calls`` of `compare` with which all of ``metrics`` will be among the readings."""
    return max(
        (PERCENTILES[metric_parts(name)[0]][1] for name in metrics if metric_parts(name)[0] in PERCENTILES), default=0
    )


def readings(
    comparison: Comparison,
    candidate: Timer,
    reference: Timer,
    clock: Clock,
    reference_ms: float,
    environment: Facts,
    details: Facts | None = None,
) -> dict[str, Measurement]:
    """``latency_ms`` and, as far as there are calls enough, its percentiles.

    All are in terms of ``reference_ms``, the study's reference: ``latency_ms`` is the ratio times
    that; a percentile is what the calls say times ``reference_ms / reference_now_ms``, so that the
    machine's mood during this measurement is out of both. The reference's own error is left out: it
    is the same factor in every latency of the study and cancels in every comparison.

    Percentiles are on the same clock as the ratio. Where that is the CPU's, they are the tail that
    the model has by itself: caches, memory, clock frequency. What other tasks take away is not in
    it, so a client of a shared server sees a longer one; ``wall_ms`` in the details has the same
    percentile in wall time. Interrupted blocks are left out either way.

    Args:
        clock: of the ratio.
        reference_ms: the study's; the reference's latency in this comparison is in the details.
        details: more facts for the details of ``latency_ms``.
    """
    now = reference.latency(clock).mean
    value = reference_ms * math.exp(comparison.log_ratio.mean)
    facts = {
        **_ratio_details(comparison, candidate, clock),
        "reference_ms": reference_ms,
        "reference_now_ms": now,
        **(details or {}),
    }
    found = {
        "latency_ms": _reading(
            "latency_ms", value, value * comparison.log_ratio.stderr, comparison.rounds, environment, facts
        )
    }
    on_clock, on_wall = candidate.times_of_passes(clock), candidate.times("wall")
    calls = sum(map(len, on_clock))
    scale = reference_ms / now
    for name, (share, needed) in PERCENTILES.items():
        if calls < needed:
            continue
        value, stderr = percentile(on_clock, share)
        facts = {
            "clock": clock,
            "passes": len(on_clock),
            "wall_ms": float(np.quantile(on_wall, share)),
            "noisy": comparison.noisy,
            "reference_ms": reference_ms,
        }
        found[name] = _reading(name, value * scale, stderr * scale, calls, environment, facts)
    return found


def percentile(passes: Sequence[NDArray[np.float64]], share: float) -> tuple[float, float]:
    """A quantile of the calls of all passes, ``[calls]`` each, and its standard error.

    The error is bootstrapped over passes, not over calls: the calls of one process share where its
    memory lies and what the machine did meanwhile, so order statistics of the pooled calls would
    promise an error many times too small. Whole passes are drawn, with the correction n / (n - 1)
    of the variance for few of them. Infinite for a single pass.
    """
    value = float(np.quantile(np.concatenate(passes), share))
    count = len(passes)
    if count < 2:
        return value, math.inf
    random = generator("percentile", count)
    again = [
        np.quantile(np.concatenate([passes[index] for index in random.integers(count, size=count)]), share)
        for _ in range(_RESAMPLES)
    ]
    return value, float(np.std(again)) * math.sqrt(count / (count - 1))


def rescaled(measurements: Mapping[str, Measurement], factor: float) -> dict[str, Measurement]:
    """The same measurements in terms of a reference that is ``factor`` times as slow.

    Latencies, their standard errors and their ``reference_ms`` are multiplied; all else stays,
    also what the details say about this very measurement (``p50_ms``, ``reference_now_ms``).
    """
    return {
        name: _times(one, factor) if metric_parts(name)[0] in LATENCIES else one for name, one in measurements.items()
    }


def _times(latency: Measurement, factor: float) -> Measurement:
    details = dict(latency.details)
    if isinstance(reference := details.get("reference_ms"), float):
        details["reference_ms"] = reference * factor
    stderr = None if latency.stderr is None else latency.stderr * factor
    return replace(latency, value=latency.value * factor, stderr=stderr, details=details)


def _reading(name: str, value: float, stderr: float, samples: int, environment: Facts, details: Facts) -> Measurement:
    # A single pass does not tell its error; None says so, and JSON has no infinity.
    return Measurement(
        name, value, METRICS[name][0], stderr if math.isfinite(stderr) else None, samples, environment, details
    )


def _ratio_details(
    comparison: Comparison, candidate: Timer, clock: Clock
) -> dict[str, str | int | float | bool | None]:
    estimate = comparison.log_ratio
    return {
        "ratio": math.exp(estimate.mean),
        "ratio_low": math.exp(estimate.mean - estimate.half_width),
        "ratio_high": math.exp(estimate.mean + estimate.half_width),
        "cpu_ratio": comparison.ratio("cpu"),
        "wall_ratio": comparison.ratio("wall"),
        "clock": clock,
        **percentiles(candidate.times(clock)),
        "wall_p50_ms": percentiles(candidate.times("wall"))["p50_ms"],
        "passes": len(comparison.attempts),
        "rounds": comparison.rounds,
        "interrupted_rounds": comparison.interrupted,
        "waited_seconds": comparison.waited_seconds,
        "noisy": comparison.noisy,
    }
