"""Numbers read as a person would write them."""

from __future__ import annotations

import math

import pytest

from flashdistill.core.measurement import Measurement
from flashdistill.delivery.formatting import (
    MINUS,
    MISSING,
    axis_label,
    axis_scale,
    flattened,
    format_difference,
    format_measurement,
    format_moment,
    format_seconds,
    format_value,
)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ").replace(MINUS, "-")


@pytest.mark.parametrize(
    ("metric", "value", "error", "expected"),
    [
        ("num_parameters", 25_412_000, None, "25.4 M"),
        ("num_parameters", 812_345, None, "812 k"),
        ("num_parameters", 999_999, None, "1.00 M"),
        ("num_parameters", 340, None, "340 "),
        ("artifact_bytes", 97.1e6, None, "97.1 MB"),
        ("latency_ms", 3.2123, 0.031, "3.21 ms ± 0.03"),
        ("latency_ms", 3.2123, 0.0142, "3.212 ms ± 0.014"),
        ("latency_ms", 3.2123, None, "3.21 ms"),
        ("latency_ms", 1234.5, 20.0, "1 234 ms ± 20"),
        ("latency_ms", 0.01234, None, "0.0123 ms"),
        ("mlm_accuracy", 0.1783, None, "17.8 %"),
        ("mlm_accuracy", 0.1783, 0.002, "17.8 % ± 0.2"),
        ("mlm_accuracy", 0.1783, 0.0, "17.8 %"),
        ("mlm_accuracy", 0.1783, math.nan, "17.8 %"),
        ("mlm_loss", 4.1234, 0.02, "4.12 nats ± 0.02"),
        ("latency_ms", None, None, MISSING),
        ("latency_ms", math.nan, None, MISSING),
    ],
)
def test_values(metric, value, error, expected):
    assert plain(format_value(metric, value, error=error)) == expected


def test_the_interval_is_wider_than_the_standard_error():
    latency = Measurement("latency_ms", 3.0, "ms", stderr=0.1)
    assert plain(format_measurement(latency)) == "3.00 ms ± 0.10"
    assert plain(format_measurement(latency, interval=True)) == "3.0 ms ± 0.2"
    assert format_measurement(None) == MISSING


@pytest.mark.parametrize(
    ("metric", "value", "reference", "expected"),
    [
        ("latency_ms", 2.45, 3.21, "1.31× faster"),
        ("latency_ms", 3.21, 2.45, "1.31× slower"),
        ("latency_ms", 3.0, 3.001, "as fast"),
        ("latency_ms", 0.0, 3.0, ""),
        ("mlm_accuracy", 0.181, 0.178, "+0.3 points"),
        ("mlm_accuracy", 0.178, 0.181, "-0.3 points"),
        ("mlm_accuracy", 0.1781, 0.1782, "±0.0 points"),
        ("mlm_loss", 4.0, 4.25, "-0.25 nats"),
        ("num_parameters", 10, 20, "0.50×"),
        ("num_parameters", 10, None, ""),
    ],
)
def test_differences(metric, value, reference, expected):
    assert plain(format_difference(metric, value, reference)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (9.97, "10 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (183_600, "2 d 3 h"),
        (None, MISSING),
    ],
)
def test_times(seconds, expected):
    assert plain(format_seconds(seconds)) == expected


def test_moments():
    assert format_moment("2025-11-22T08:00:12+00:00") == "2025-11-22 08:00 UTC"
    assert format_moment("last night") == "last night"


def test_axes_show_the_unit_of_their_scale():
    assert (axis_label("mlm_accuracy"), axis_scale("mlm_accuracy")) == ("MLM accuracy (%)", 100)
    assert (axis_label("num_parameters"), axis_scale("num_parameters")) == ("Parameters (millions)", 1e-6)
    assert (axis_label("latency_ms"), axis_scale("latency_ms")) == ("Latency (ms)", 1)


def test_nested_settings_become_dotted_keys():
    settings = {"steps": 20, "losses": {"alpha": 0.5, "on": True}, "empty": None, "none": [], "blocks": [2, 4]}
    assert flattened(settings) == [("steps", "20"), ("losses.alpha", "0.5"), ("losses.on", "yes"), ("blocks", "2, 4")]
