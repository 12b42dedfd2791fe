"""Rates from a latency: known answers, their errors, and which peak divides them."""

from __future__ import annotations

import pytest

from flashdistill.core.measurement import METRICS, Measurement
from flashdistill.hardware.peaks import PRECISIONS, MatrixPeak, Peaks
from flashdistill.hardware.roofline import ELEMENT_BYTES, Work, derived_metrics, needs_peaks
from flashdistill.hardware.settings import TargetSettings

WORK = Work(flops=4_000_000_000, bytes_moved=100_000_000)
PEAKS = Peaks(
    "cpu",
    "Some CPU",
    2,
    (0, 1),
    {"float32": MatrixPeak(1e12, "512x512x512", "torch.mm", False), "int8": MatrixPeak(4e12, "1x2x3", "i8", False)},
    {"float16": "no kernel"},
    5e10,
    False,
)


def latency(**details: bool | float) -> Measurement:
    return Measurement("latency_ms", 20.0, "ms", 0.5, 12, {"machine_id": "m"}, details)


def test_known_answers() -> None:
    found = derived_metrics(latency(), WORK, PEAKS, TargetSettings(batch_size=8, threads=2))
    values = {name: measurement.value for name, measurement in found.items()}
    assert values == {
        "throughput_per_s": pytest.approx(8 / 0.020),
        "flops": 4e9,
        "flops_utilization": pytest.approx(4e9 / (0.020 * 1e12)),
        "bandwidth_utilization": pytest.approx(1e8 / (0.020 * 5e10)),
    }
    assert all(measurement.unit == METRICS[name][0] for name, measurement in found.items())
    assert all(measurement.environment == {"machine_id": "m"} for measurement in found.values())


def test_relative_errors_are_those_of_the_latency() -> None:
    found = derived_metrics(latency(), WORK, PEAKS, TargetSettings())
    assert found.pop("flops").stderr is None, "counted, not measured"
    for measurement in found.values():
        assert measurement.stderr == pytest.approx(measurement.value * 0.5 / 20)
        assert measurement.samples == 12
    exact = derived_metrics(Measurement("latency_ms", 20.0, "ms"), WORK, PEAKS, TargetSettings())
    assert exact["throughput_per_s"].stderr is None


def test_noise_is_handed_on() -> None:
    found = derived_metrics(latency(noisy=True), WORK, PEAKS, TargetSettings())
    assert all(found[name].details["noisy"] for name in ("throughput_per_s", "flops_utilization"))
    assert "noisy" not in found["flops"].details


def test_details_name_the_peak() -> None:
    found = derived_metrics(latency(), WORK, PEAKS, TargetSettings(threads=2))
    details = found["flops_utilization"].details
    assert details["peak_flops_per_s"] == 1e12
    assert details["peak_from"] == "best matrix product measured on Some CPU (threads: 2)"
    assert (details["peak_kernel"], details["peak_shape"]) == ("torch.mm", "512x512x512")
    details = found["bandwidth_utilization"].details
    assert details["lower_bound"] is True
    assert details["bytes"] == WORK.bytes_moved
    assert details["peak_from"] == "best triad measured on Some CPU (threads: 2)"


def test_the_peak_is_that_of_the_precision() -> None:
    settings = TargetSettings().model_copy(update={"precision": "int8"})
    assert derived_metrics(latency(), WORK, PEAKS, settings)["flops_utilization"].value == pytest.approx(0.05)


def test_the_users_peaks_come_first() -> None:
    settings = TargetSettings(peak_flops_per_s=2e12, peak_bytes_per_s=1e11)
    for peaks in (PEAKS, None):
        found = derived_metrics(latency(), WORK, peaks, settings)
        assert found["flops_utilization"].value == pytest.approx(0.1)
        assert found["flops_utilization"].details["peak_from"] == "target.peak_flops_per_s"
        assert found["bandwidth_utilization"].value == pytest.approx(0.05)
        assert found["bandwidth_utilization"].details["peak_from"] == "target.peak_bytes_per_s"
    assert not needs_peaks(settings)
    assert needs_peaks(TargetSettings(peak_flops_per_s=2e12))


def test_unknown_peaks_leave_their_metric_out() -> None:
    settings = TargetSettings().model_copy(update={"precision": "float16"})
    assert set(derived_metrics(latency(), WORK, PEAKS, settings)) == {
        "throughput_per_s",
        "flops",
        "bandwidth_utilization",
    }
    assert set(derived_metrics(latency(), WORK, None, TargetSettings())) == {"throughput_per_s", "flops"}


def test_every_precision_has_its_sizes() -> None:
    assert set(ELEMENT_BYTES) == set(PRECISIONS)
