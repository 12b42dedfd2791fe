"""What this machine can do, and what will go wrong on it: the data of ``flashdistill doctor``."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Progress, Silent
from flashdistill.hardware.hosts import Host, LocalHost
from flashdistill.hardware.machine import (
    Contention,
    Facts,
    allowed_cpus,
    choose_cpus,
    clock_source,
    contention,
    core_count,
    cpu_quota,
    fingerprint,
    frequency_control,
    gpus,
    is_virtual,
)
from flashdistill.hardware.peaks import PeakRequest, Peaks, measure_on
from flashdistill.hardware.runtimes import RuntimeFacts, look_at_runtimes
from flashdistill.hardware.settings import TARGETS

_TESTING_ONLY = ("fake",)
_DEFAULT_RUNTIME = "onnxruntime"
_SECONDS_PER_PRECISION = 0.3
_STEADY_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "timebase")
_SWAPPED_BYTES = 256 * 2**20
_FREE_BYTES = 2 * 2**30

_TASK = "looking at this machine"


def doctor_report(progress: Progress | None = None) -> dict[str, Any]:
    """All that is known about this machine, as what JSON can hold.

    Keys: ``machine`` (see `fingerprint`), ``processor``, ``memory``, ``contention``, ``gpus`` (see
    `machine.gpus`), ``runtimes`` (`RuntimeFacts` each), ``peaks`` (`Peaks` each: one thread, one
    for each core, each kind of GPU), ``unmeasured`` (why peaks are missing) and ``warnings``
    (sentences). Takes ten to twenty seconds; waits while a measurement uses the machine.
    """
    progress = progress or Silent()
    now = contention()  # before all that loads the machine
    machine, accelerators = fingerprint(), gpus()
    requests = peak_requests(accelerators)
    progress.start(_TASK, 1 + len(requests))
    try:
        devices = ("cpu", "cuda") if accelerators else ("cpu",)
        progress.advance(_TASK, 0, "serving runtimes")
        runtimes = look_at_runtimes([name for name in TARGETS if name not in _TESTING_ONLY], devices)
        progress.advance(_TASK)
        peaks, unmeasured = _measure(requests, progress)
    finally:
        progress.finish(_TASK)
    report = {
        "machine": machine,
        "processor": processor_facts(),
        "memory": memory_facts(),
        "contention": {**dataclasses.asdict(now), "busy": now.busy},
        "gpus": accelerators,
        "runtimes": [{**dataclasses.asdict(one), "available": one.available} for one in runtimes],
        "peaks": [one.to_json() for one in peaks],
        "unmeasured": unmeasured,
    }
    return report | {"warnings": warnings_for(report, now, runtimes, peaks)}


def processor_facts() -> dict[str, Any]:
    """Cores, who decides their clock rate, and what tells the time; None where the system does not."""
    allowed = allowed_cpus()
    return {
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cpus": psutil.cpu_count(),
        "allowed_cpus": allowed,
        "allowed_cores": core_count(allowed),
        "quota_cpus": cpu_quota(),
        "frequency": frequency_control(),
        "clock_source": clock_source(),
        "virtual": is_virtual(),
    }


def memory_facts() -> dict[str, int]:
    """Bytes of memory and of swap space: all, and what is free or in use."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "swap_total_bytes": swap.total,
        "swap_used_bytes": swap.used,
    }


def peak_requests(accelerators: Sequence[Facts]) -> list[PeakRequest]:
    """One thread, one for each core where there are several, and the first GPU of each kind."""
    cores = core_count(allowed_cpus())
    requests = [
        PeakRequest(threads, tuple(choose_cpus(threads)), seconds=_SECONDS_PER_PRECISION)
        for threads in dict.fromkeys((1, cores))
    ]
    kinds: dict[object, int] = {}
    for index, gpu in enumerate(accelerators):
        kinds.setdefault(gpu["name"], index)
    return requests + [PeakRequest(device=f"cuda:{index}", seconds=_SECONDS_PER_PRECISION) for index in kinds.values()]


def _measure(requests: Sequence[PeakRequest], progress: Progress) -> tuple[list[Peaks], list[str]]:
    """What could be measured, and why the rest could not."""
    found: list[Peaks] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, LocalHost(Path(scratch, "store"), progress) as host:
        for request in requests:
            progress.advance(_TASK, 0, f"peaks of {request.device}, threads: {request.threads}")
            try:
                found.append(_measure_one(host, request, Path(scratch, "peaks.log")))
            except TargetError as error:
                failures.append(str(error))
            progress.advance(_TASK)
    return found, failures


def _measure_one(host: Host, request: PeakRequest, log: Path) -> Peaks:
    with host.locked(request.device):
        return measure_on(host, request, log)


def warnings_for(
    report: Mapping[str, Any], now: Contention, runtimes: Sequence[RuntimeFacts], peaks: Sequence[Peaks]
) -> list[str]:
    """What a user should know before trusting this machine, one sentence each."""
    return [
        *_precision_warnings(peaks),
        *_processor_warnings(report["processor"]),
        *_memory_warnings(report["memory"], str(report["machine"].get("huge_pages"))),
        *_contention_warnings(now),
        *_runtime_warnings(runtimes, report["gpus"]),
        *report["unmeasured"],
    ]


def _precision_warnings(peaks: Sequence[Peaks]) -> list[str]:
    """On a CPU hardly any has float16, and nothing here chooses it; the others tempt."""
    advice = {
        "bfloat16": "do not serve in it; training uses float32",
        "int8": "quantised models will be smaller here, but not faster",
    }
    one_thread = next((one for one in peaks if one.device == "cpu"), None)
    if one_thread is None:
        return []
    return [
        f"{precision} is only emulated on this CPU: {advice[precision]}"
        for precision, peak in one_thread.matrix.items()
        if peak.emulated and precision in advice
    ]


def _processor_warnings(processor: Mapping[str, Any]) -> list[str]:
    found = []
    if processor["allowed_cores"] < 2:
        found.append("only one core may be used: whatever else runs disturbs the measurements")
    quota = processor["quota_cpus"]
    if quota is not None and quota < len(processor["allowed_cpus"]):
        found.append(
            f"a control group allows {quota:g} CPUs' worth of time on {len(processor['allowed_cpus'])} CPUs and stops "
            "a process that used it up, also while it is measured; pin the container to whole CPUs instead"
        )
    frequency = processor["frequency"]
    # Drivers that choose the rate themselves call their ordinary mode "powersave".
    if frequency.get("governor") == "powersave" and frequency.get("driver") not in ("intel_pstate", "amd-pstate-epp"):
        found.append("the frequency governor is powersave: latencies will be long and vary; set it to performance")
    clock = processor["clock_source"]
    if clock is not None and clock not in _STEADY_CLOCKS:
        found.append(f"the kernel reads the time from {clock}, which is slow: short calls are measured less precisely")
    return found


def _memory_warnings(memory: Mapping[str, int], huge_pages: str) -> list[str]:
    found = []
    if memory["swap_used_bytes"] > _SWAPPED_BYTES:
        found.append(f"{memory['swap_used_bytes'] / 2**30:.1f} GiB are swapped out; free memory before measuring")
    if memory["available_bytes"] < _FREE_BYTES:
        found.append(f"only {memory['available_bytes'] / 2**30:.1f} GiB of memory are free")
    if huge_pages == "never":
        found.append("huge pages are off: a model's speed varies more from process to process")
    return found


def _contention_warnings(now: Contention) -> list[str]:
    if now.busy:
        stalled = "" if now.stalled is None else f"{now.stalled:.0%} of the time tasks wait for a CPU, "
        return [
            f"the machine is busy now ({stalled}{now.stolen:.0%} is stolen by its host): "
            "measurements will take longer and be less precise, and the peaks here may be too low"
        ]
    if now.stalled is None:
        return ["the kernel gives no pressure-stall information; a busy machine is noticed by its effects only"]
    return []


def _runtime_warnings(runtimes: Sequence[RuntimeFacts], accelerators: Sequence[Facts]) -> list[str]:
    """Most runtimes are a matter of choice; the default one and one for each kind of device are not."""
    found = []
    default = next((one for one in runtimes if one.runtime == _DEFAULT_RUNTIME), None)
    if default is not None and not default.available:
        found.append(f"{_DEFAULT_RUNTIME}, the default runtime, cannot be used: {'; '.join(default.lacking.values())}")
    if accelerators and not any("cuda" in one.precisions for one in runtimes):
        found.append(
            "no runtime here can serve on this machine's GPU: install a PyTorch with CUDA, onnxruntime-gpu or TensorRT"
        )
    return found
