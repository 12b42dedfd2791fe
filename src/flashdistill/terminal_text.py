"""Results as aligned text for a terminal: measurements, and what `doctor` found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flashdistill.core.measurement import Measurement, metric_parts
from flashdistill.delivery.formatting import aligned

WORTHWHILE_SPEEDUP = 1.2
"""Less is within what a busy machine makes of equal speeds."""

_WIDTH = 100
_INDENT = "  "
_EMULATED = "*"

Row = tuple[str, str]


_COLUMNS = {
    "latency_ms": ("latency ms", 1.0),
    "latency_p50_ms": ("p50", 1.0),
    "latency_p90_ms": ("p90", 1.0),
    "latency_p99_ms": ("p99", 1.0),
    "throughput_per_s": ("sequences/s", 1.0),
    "flops": ("GFLOP", 1e-9),
    "flops_utilization": ("of peak FLOP/s", 100.0),
    "bandwidth_utilization": ("of bandwidth", 100.0),
    "peak_memory_bytes": ("memory MB", 1e-6),
    "artifact_bytes": ("file MB", 1e-6),
    "num_parameters": ("parameters M", 1e-6),
}
"""Metrics of a target that the table shows: the column's title, and what a value is multiplied by."""


def measurement_table(results: Iterable[tuple[object, Mapping[str, Measurement]]]) -> str:
    """What was measured and its measurements as aligned text, a row per target, with half-widths of 95 % intervals.

    The column ``ratio`` is the latency relative to the baseline's, measured side by side. Below
    the table stands what each target was.
    """
    tables = [(subject, by_target(measured)) for subject, measured in results]
    several = any(target for _, found in tables for target in found)
    shown = [name for name in _COLUMNS if any(name in values for _, found in tables for values in found.values())]
    header = ["architecture", *(["target"] if several else [])]
    for name in shown:
        header += [_COLUMNS[name][0], "ratio [95 %]"] if name == "latency_ms" else [_COLUMNS[name][0]]
    rows = [header]
    for subject, found in tables:
        for target, values in found.items():
            rows.append([str(subject), *([target or "-"] if several else []), *_cells(values, shown)])
    conditions = [_conditions(target, values) for _, found in tables[:1] for target, values in found.items()]
    return "\n".join([*aligned(rows), "", *filter(None, conditions)]).rstrip()


def by_target(measured: Mapping[str, Measurement]) -> dict[str | None, dict[str, Measurement]]:
    """Measurements by the further target that they were taken on (None: the first) and by metric."""
    found: dict[str | None, dict[str, Measurement]] = {}
    for name, measurement in measured.items():
        metric, target = metric_parts(name)
        found.setdefault(target, {})[metric] = measurement
    return found


def _cells(values: Mapping[str, Measurement], shown: Iterable[str]) -> list[str]:
    cells = []
    for name in shown:
        measurement = values.get(name)
        cells.append("-" if measurement is None else _with_interval(measurement, _COLUMNS[name][1]))
        if name == "latency_ms":
            cells.append("-" if measurement is None else _ratio(measurement))
    return cells


def _with_interval(measurement: Measurement, scale: float) -> str:
    scaled = measurement.value * scale
    value = f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:.4g}"
    if measurement.unit == "fraction":
        return f"{measurement.value * scale:.0f} %"
    if metric_parts(measurement.name)[0] != "latency_ms":
        return value
    interval = "" if measurement.stderr is None else f" ± {1.96 * measurement.stderr * scale:.2g}"
    return value + interval + (" noisy" if measurement.details.get("noisy") else "")


def _ratio(measurement: Measurement) -> str:
    ratio, low, high = (measurement.details.get(key) for key in ("ratio", "ratio_low", "ratio_high"))
    if not isinstance(ratio, float):
        return "-"
    interval = f" [{low:.3f}, {high:.3f}]" if isinstance(low, float) and isinstance(high, float) else ""
    return f"{ratio:.3f}{interval}"


def _conditions(target: str | None, values: Mapping[str, Measurement]) -> str:
    """``int8: onnxruntime 1.31.1 int8, 1 thread on AMD EPYC, batch 1 × 128, CPU time``."""
    latency = values.get("latency_ms")
    if latency is None:
        return ""
    facts = latency.environment
    threads = f"{facts.get('threads')} thread{'s' * (facts.get('threads') != 1)}"
    device = facts.get("gpu_model") or f"{threads} on {facts.get('cpu_model')}"
    host = f" ({facts['host']})" if facts.get("host") else ""
    clock = {"cpu": ", CPU time", "wall": ", wall time"}.get(str(latency.details.get("clock")), "")
    text = (
        f"{facts.get('runtime')} {facts.get('runtime_version')} {facts.get('precision')}, {device}{host}, "
        f"batch {facts.get('batch_size')} × {facts.get('sequence_length')} tokens{clock}"
    )
    return text if target is None else f"{target}: {text}"


def doctor_text(report: Mapping[str, Any]) -> str:
    """`hardware.doctor.doctor_report` under headings, warnings last.

    With the key ``training`` (``device`` and the speed-ups of `training_text`) training has a part too.
    """
    parts = [
        _part("machine", _facts(_machine_rows(report))),
        _part("accelerators", _facts(_gpu_rows(report["gpus"])) or ["none"]),
        _part("load now", _facts(_load_rows(report["contention"]))),
        _part("serving runtimes", _facts(_runtime_rows(report["runtimes"]))),
        _part("best matrix product in GFLOP/s, best triad in GB/s", _peak_table(report["peaks"])),
    ]
    if "training" in report:
        parts.append(training_text(report["training"]["device"], report["training"]))
    warnings = [_wrapped(text, "- ") for text in report["warnings"]]
    return "\n\n".join([*parts, _part("warnings", warnings or ["none"])])


def training_text(device: str, speedups: Mapping[str, float | None]) -> str:
    """What reduced precision and compilation bring, as `training.speed` measured them; None: not to be had."""
    lines = []
    settings = {"bfloat16": "training.precision: bfloat16", "compile": "training.compile: true"}
    for name, setting in settings.items():
        speedup = speedups[name]
        if speedup is not None:
            advice = f"set {setting}" if speedup >= WORTHWHILE_SPEEDUP else "not worth setting"
            lines.append(f"{name:<8}  {speedup:.2f} x as fast as without: {advice}")
    if speedups["bfloat16"] is None:
        lines.append("bfloat16  only emulated here: training uses float32")
    return _part(f"training on {device}", lines)


def _part(heading: str, lines: Iterable[str]) -> str:
    return "\n".join([heading, *(textwrap.indent(line, _INDENT) for line in lines)])


def _machine_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    machine, processor, memory = report["machine"], report["processor"], report["memory"]
    yield "processor", str(machine["cpu_model"]) + (", in a virtual machine" if processor["virtual"] else "")
    yield "cores", _cores(processor)
    yield "instructions", str(machine["instructions"]) or "none of those that matter"
    if frequency := _frequency(processor["frequency"]):
        yield "clock rate", frequency
    swap = f"{_gib(memory['swap_used_bytes'])} of swap used" if memory["swap_total_bytes"] else "no swap"
    yield "memory", f"{_gib(memory['total_bytes'])}, {_gib(memory['available_bytes'])} free, {swap}"
    yield "huge pages", str(machine["huge_pages"])
    yield "system", f"{machine['system']} {machine['kernel']}, Python {machine['python']}"
    yield "id", str(machine["machine_id"])


def _cores(processor: Mapping[str, Any]) -> str:
    physical, logical, allowed = (processor[key] for key in ("physical_cores", "logical_cpus", "allowed_cpus"))
    words = [f"{physical} physical" if physical else "", f"{logical} logical"]
    words.append("all may be used" if len(allowed) == logical else f"CPUs {_ranges(allowed)} may be used")
    if processor["quota_cpus"] is not None:
        words.append(f"{processor['quota_cpus']:g} CPUs' worth of time")
    return ", ".join(word for word in words if word)


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,8`` for 0, 1, 2, 3, 8."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _frequency(found: Mapping[str, str | bool]) -> str:
    words = [f"{name} {found[name]}" for name in ("governor", "driver") if name in found]
    if "turbo" in found:
        words.append("turbo on" if found["turbo"] else "turbo off")
    return ", ".join(words)


def _gpu_rows(gpus: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for index, gpu in enumerate(gpus):
        words = [str(gpu["name"])]
        if "memory_bytes" in gpu:
            words += [_gib(gpu["memory_bytes"]), f"compute capability {gpu['capability']}", f"driver {gpu['driver']}"]
        yield f"cuda:{index}", ", ".join(words)


def _load_rows(contention: Mapping[str, Any]) -> Iterator[Row]:
    yield "runnable tasks", f"{contention['load']:.2f}"
    if contention["stalled"] is not None:
        yield "tasks wait for a CPU", f"{contention['stalled']:.0%} of the time"
    yield "CPU time stolen", f"{contention['stolen']:.0%}"


def _runtime_rows(runtimes: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """What each can do, then what it lacks, one reason for each line."""
    for one in runtimes:
        served = "; ".join(f"{device}: {', '.join(found)}" for device, found in one["precisions"].items())
        offers = f" (offers {', '.join(one['offers'])})" if one["offers"] else ""
        version = str(one["version"]).partition("-")[0]  # without the name of the build
        yield one["runtime"], f"{version}  {served}{offers}" if one["available"] else "not available"
        for what, reason in one["lacking"].items():
            yield "", f"{what}: {reason}"


def _peak_table(peaks: Sequence[Mapping[str, Any]]) -> list[str]:
    if not peaks:
        return ["not measured"]
    precisions = list(dict.fromkeys(name for one in peaks for name in one["matrix"]))
    rows = [["", *(f"{name} " for name in precisions), "memory"]]
    for one in peaks:
        threads = "1 thread" if one["threads"] == 1 else f"{one['threads']} threads"
        cells = [_rate(one["matrix"].get(name)) for name in precisions]
        rows.append([threads if one["device"] == "cpu" else one["device"], *cells, f"{one['bytes_per_s'] / 1e9:,.1f}"])
    notes = []
    if any(peak["emulated"] for one in peaks for peak in one["matrix"].values()):
        notes.append(f"{_EMULATED} emulated: slower than float32")
    if any(one["busy"] for one in peaks):
        notes.append("others used the machine meanwhile: it may do better")
    return [*aligned(rows), *notes]


def _rate(peak: Mapping[str, Any] | None) -> str:
    if peak is None:
        return "- "
    return f"{peak['flops_per_s'] / 1e9:,.1f}{_EMULATED if peak['emulated'] else ' '}"


def _facts(rows: Iterable[Row]) -> list[str]:
    """Names in a column, and beside them their values, which may need several lines."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0) + 2
    return [_wrapped(text, f"{name:<{width}}") for name, text in rows]


def _wrapped(text: str, lead: str) -> str:
    lines = textwrap.wrap(text, _WIDTH - len(lead), break_long_words=False, break_on_hyphens=False) or [""]
    return lead + ("\n" + " " * len(lead)).join(lines)


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
