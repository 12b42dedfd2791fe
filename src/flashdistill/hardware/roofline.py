"""From a latency to rates: how near a model comes to what its machine can do at best.

The model's work is known from its architecture (`flashdistill.models.work`), the machine's peaks
from a measurement (`flashdistill.hardware.peaks`) or from the user; the latency divides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flashdistill.core.measurement import Measurement, metric_unit
from flashdistill.hardware.peaks import Peaks
from flashdistill.hardware.settings import Precision, TargetSettings

Details = dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Work:
    """What one call of a model with the target's batch and sequence has to do.

    Attributes:
        flops: operations, a multiply-add counted as two.
        bytes_moved: a lower bound.
    """

    flops: int
    bytes_moved: int


@dataclass(frozen=True)
class ElementBytes:
    """Bytes of one stored weight and of one element of a feature map."""

    weight: int
    activation: int


ELEMENT_BYTES: Mapping[Precision, ElementBytes] = {
    "float32": ElementBytes(4, 4),
    "bfloat16": ElementBytes(2, 2),
    "float16": ElementBytes(2, 2),
    # Weights alone are kept as integers: between layers every runtime here has floats.
    "int8": ElementBytes(1, 4),
}


@dataclass(frozen=True)
class _Peak:
    """A rate per second that counts as the best, and where it comes from."""

    rate: float
    details: Details


def needs_peaks(settings: TargetSettings) -> bool:
    """Whether the user has left a peak to be measured."""
    return settings.peak_flops_per_s is None or settings.peak_bytes_per_s is None


def derived_metrics(
    latency: Measurement, work: Work, peaks: Peaks | None, settings: TargetSettings
) -> dict[str, Measurement]:
    """Throughput, operations, and the shares of the machine's peaks that they amount to.

    Returns:
        ``throughput_per_s`` (of the target's batch size), ``flops`` of a call,
        ``flops_utilization``, and ``bandwidth_utilization``, which is a lower bound, because it
        counts only the bytes that cannot be avoided. Their environment is the latency's, and so
        is their relative standard error; the details name the peak. A share of a peak that is
        neither known nor given is left out.

    Args:
        latency: ``latency_ms`` of a call.
        peaks: of the target's device, with its number of threads; None where they cannot be measured.
    """
    assert latency.unit == "ms", "a latency is in milliseconds"
    calls_per_s = 1e3 / latency.value
    found = {
        "throughput_per_s": _rate("throughput_per_s", settings.batch_size * calls_per_s, latency, {}),
        "flops": Measurement("flops", work.flops, metric_unit("flops"), environment=latency.environment),
    }
    if (peak := _peak_flops(peaks, settings)) is not None:
        details = {"flops": work.flops, **peak.details}
        share = work.flops * calls_per_s / peak.rate
        found["flops_utilization"] = _rate("flops_utilization", share, latency, details)
    if (peak := _peak_bytes(peaks, settings)) is not None:
        details = {"bytes": work.bytes_moved, "lower_bound": True, **peak.details}
        share = work.bytes_moved * calls_per_s / peak.rate
        found["bandwidth_utilization"] = _rate("bandwidth_utilization", share, latency, details)
    return found


def _rate(name: str, value: float, latency: Measurement, details: Details) -> Measurement:
    """A quantity inversely proportional to the latency: to first order their relative errors are the same."""
    stderr = None if latency.stderr is None else value * latency.stderr / latency.value
    if "noisy" in latency.details:
        details = {**details, "noisy": latency.details["noisy"]}
    return Measurement(name, value, metric_unit(name), stderr, latency.samples, latency.environment, details)


def _peak_flops(peaks: Peaks | None, settings: TargetSettings) -> _Peak | None:
    if settings.peak_flops_per_s is not None:
        return _Peak(settings.peak_flops_per_s, _given("peak_flops_per_s", settings.peak_flops_per_s))
    best = peaks.matrix.get(settings.precision) if peaks else None
    if peaks is None or best is None:
        return None
    details = _measured("peak_flops_per_s", best.flops_per_s, peaks)
    details |= {"peak_kernel": best.kernel, "peak_shape": best.shape, "peak_emulated": best.emulated}
    return _Peak(best.flops_per_s, details)


def _peak_bytes(peaks: Peaks | None, settings: TargetSettings) -> _Peak | None:
    if settings.peak_bytes_per_s is not None:
        return _Peak(settings.peak_bytes_per_s, _given("peak_bytes_per_s", settings.peak_bytes_per_s))
    return _Peak(peaks.bytes_per_s, _measured("peak_bytes_per_s", peaks.bytes_per_s, peaks)) if peaks else None


def _given(name: str, rate: float) -> Details:
    return {name: rate, "peak_from": f"target.{name}"}


def _measured(name: str, rate: float, peaks: Peaks) -> Details:
    what = "matrix product" if name == "peak_flops_per_s" else "triad"
    how = f"threads: {peaks.threads}" if peaks.device == "cpu" else peaks.device
    return {name: rate, "peak_from": f"best {what} measured on {peaks.device_name} ({how})", "peak_busy": peaks.busy}
