"""Numbers as people read them: units, sensible digits, uncertainties.

A value and its error share the decimals of the error's first digit. A no-break space stands
between number and unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flashdistill.core.measurement import Measurement, metric_parts, metric_unit

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"

METRIC_NAMES = {
    "mlm_accuracy": "MLM accuracy",
    "mlm_loss": "MLM loss",
    "perplexity": "MLM perplexity",
    "nsp_accuracy": "NSP accuracy",
    "teacher_agreement": "agreement with the teacher",
    "teacher_kl": "divergence from the teacher",
    "served_mlm_accuracy": "MLM accuracy as served",
    "latency_ms": "latency",
    "latency_p50_ms": "median latency",
    "latency_p90_ms": "90th percentile of the latency",
    "latency_p99_ms": "99th percentile of the latency",
    "throughput_per_s": "throughput",
    "flops": "FLOPs",
    "flops_utilization": "FLOPs utilisation",
    "bandwidth_utilization": "bandwidth utilisation",
    "num_parameters": "parameters",
    "peak_memory_bytes": "peak memory",
    "artifact_bytes": "file size",
}
"""Metrics in words, for the middle of a sentence."""

_DISPLAY_UNITS = {"fraction": "%"}
_SCALED_UNITS = {"parameters": "", "bytes": "B", "FLOP": "FLOP"}
"""Units of numbers that may have many digits, and what is printed behind the prefix."""

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def metric_name(metric: str) -> str:
    """The metric in words, with its target where it is a further one; an unknown metric's own name with spaces."""
    metric, target = metric_parts(metric)
    words = METRIC_NAMES.get(metric, metric.replace("_", " "))
    return words if target is None else f"{words} on {target}"


def capitalized(text: str) -> str:
    """The text with a capital first letter and the rest untouched."""
    return text[:1].upper() + text[1:]


def axis_label(metric: str) -> str:
    """``Latency (ms)``: name and the unit of `axis_value`."""
    unit = metric_unit(metric)
    unit = {"fraction": "%", "parameters": "millions", "bytes": "MB", "FLOP": "GFLOP"}.get(unit, unit)
    return f"{capitalized(metric_name(metric))} ({unit})" if unit else capitalized(metric_name(metric))


def axis_scale(metric: str) -> float:
    """What a value of the metric is multiplied by for its axis: fractions become per cent."""
    return {"fraction": 100.0, "parameters": 1e-6, "bytes": 1e-6, "FLOP": 1e-9}.get(metric_unit(metric), 1.0)


def format_value(metric: str, value: float | None, *, error: float | None = None) -> str:
    """``3.21 ms ± 0.03``, ``17.8 %``, ``25.4 M``; an en dash for None.

    Args:
        error: half-width to print after the value, in the metric's unit.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    unit = metric_unit(metric)
    if unit in _SCALED_UNITS:
        return _scaled(value) + _SCALED_UNITS[unit]
    scale = 100.0 if unit == "fraction" else 1.0
    value, error = value * scale, None if error is None or not math.isfinite(error) else error * scale
    decimals = _decimals(value, error, default=1 if unit == "fraction" else None)
    text = _number(value, decimals)
    if display := _DISPLAY_UNITS.get(unit, unit):
        text += f"{SPACE}{display}"
    return f"{text}{SPACE}± {error:.{decimals}f}" if error else text


def format_measurement(measurement: Measurement | None, *, interval: bool = False) -> str:
    """The value with its standard error, or with the half-width of its 95 % interval."""
    if measurement is None:
        return MISSING
    error = measurement.stderr
    if error is not None and interval:
        error *= 1.96
    return format_value(measurement.name, measurement.value, error=error)


def format_difference(metric: str, value: float | None, reference: float | None) -> str:
    """How a value compares with the baseline's: ``1.31× faster``, ``+0.4 points``, ``0.62×``.

    Accuracies are compared by difference, latencies as speed, everything else by ratio; an
    empty string where one of the two is missing.
    """
    if value is None or reference is None:
        return ""
    unit = metric_unit(metric)
    if unit == "ms":
        return _speed(value, reference)
    if unit == "fraction":
        return f"{_signed(100 * (value - reference), 1)}{SPACE}points"
    if unit == "nats":
        return f"{_signed(value - reference, 2)}{SPACE}nats"
    return f"{value / reference:.2f}×" if reference else ""


def format_gap(metric: str, size: float) -> str:
    """The size of a difference in two digits: ``0.45 points`` between accuracies, ``1.2 ms``."""
    unit = metric_unit(metric)
    if unit in _SCALED_UNITS:
        return format_value(metric, size)
    shown = 100.0 * size if unit == "fraction" else size
    decimals = 0 if shown == 0 else min(max(1 - math.floor(math.log10(shown)), 0), 4)
    return f"{_number(shown, decimals)}{SPACE}{'points' if unit == 'fraction' else unit}".rstrip()


def _speed(value: float, reference: float) -> str:
    if value <= 0 or reference <= 0:
        return ""
    if f"{reference / value:.2f}" == "1.00":
        return "as fast"
    return f"{reference / value:.2f}×{SPACE}faster" if value < reference else f"{value / reference:.2f}×{SPACE}slower"


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    if float(text) == 0:
        return f"±{abs(value):.{decimals}f}"
    return text.replace("-", MINUS)


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", MINUS)


def _decimals(value: float, error: float | None, default: int | None) -> int:
    if error:
        # Two digits of an error that begins with 1, as rounding 0.14 to 0.1 loses a third of it.
        exponent = math.floor(math.log10(error))
        digits = 1 - exponent if error / 10**exponent < 1.95 else -exponent
        return min(max(digits, 0), 4)
    if default is not None:
        return default
    if value == 0:
        return 0
    return min(max(2 - math.floor(math.log10(abs(value))), 0), 4)


def _scaled(value: float) -> str:
    for size, prefix in _SCALES:
        if abs(value) >= 0.9995 * size:
            scaled = float(f"{value / size:.3g}")
            return f"{scaled:.{_decimals(scaled, None, None)}f}{SPACE}{prefix}".replace("-", MINUS)
    return f"{value:.0f}{SPACE}" if value == int(value) else f"{value:.3g}{SPACE}"


def format_count(value: float | None) -> str:
    """``1 234 567``; an en dash for None."""
    return MISSING if value is None else _number(value, 0)


def format_seconds(seconds: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min 20 s``, ``1 h 05 min``, ``2 d 3 h``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{SPACE}min {whole % 60:02d}{SPACE}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"
    hours = round(seconds / 3600)
    return f"{hours // 24}{SPACE}d {hours % 24}{SPACE}h"


def format_share(share: float) -> str:
    """``17 %`` of a whole."""
    return f"{100 * share:.0f}{SPACE}%"


def format_moment(text: str) -> str:
    """An ISO 8601 moment as ``2025-03-01 14:05 UTC+01:00``; other text as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = moment.tzname()
    return f"{moment:%Y-%m-%d %H:%M}" + (f" {zone}" if zone else "")


def flattened(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted keys and printable values; None and empty values are left out."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            if value:
                rows.append((f"{prefix}{key}", ", ".join(map(_plain, value))))
        elif value is not None and value != "":
            rows.append((f"{prefix}{key}", _plain(value)))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
