"""What this machine is, which of its CPUs a measurement uses, and how busy it is now.

What the system does not tell is None, or left out: none of it is needed to measure.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flashdistill.core.errors import TargetError
from flashdistill.core.files import content_key

Facts = dict[str, str | int | float | bool]

_RUNTIMES = ("numpy", "torch", "onnxruntime", "onnx", "openvino", "transformers")
_INSTRUCTIONS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
    "asimd",
    "asimddp",
    "asimdhp",
    "bf16",
    "i8mm",
    "sve",
)

BUSY_STALLED_SHARE = 0.25
"""Above this share of time in which some task waited for a CPU the machine counts as busy."""

BUSY_STOLEN_SHARE = 0.05
"""Above this share of CPU time taken by the hypervisor the machine counts as busy."""


def fingerprint() -> Facts:
    """The machine and the versions of what runs on it, flat, ready for a measurement's environment.

    ``machine_id`` is short and depends on the hardware alone: CPU model, instruction sets, number
    of CPUs. It stays the same over reboots and upgrades of software.
    """
    import psutil  # here, because runners that never ask should not hold it in memory

    hardware: Facts = {
        "cpu_model": cpu_model(),
        "cpu_count": os.cpu_count() or 1,
        "instructions": " ".join(instruction_sets()),
    }
    return {
        "machine_id": content_key(hardware)[:10],
        **hardware,
        "cpus_allowed": ",".join(map(str, allowed_cpus())),
        "memory_bytes": psutil.virtual_memory().total,
        "huge_pages": huge_pages(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **versions(),
    }


def versions() -> dict[str, str]:
    """Installed versions of the numerical libraries, found without importing them."""
    found = {}
    for name in _RUNTIMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's marketing name, or its architecture where the system does not tell."""
    names = ("model name", "Hardware", "cpu model")
    return next((_cpuinfo(name) for name in names if _cpuinfo(name)), platform.processor() or platform.machine())


def instruction_sets() -> list[str]:
    """The vector and matrix extensions that decide how fast a model is, sorted."""
    present = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return sorted(present.intersection(_INSTRUCTIONS))


def huge_pages() -> str:
    """The kernel's mode of transparent huge pages: ``always``, ``madvise``, ``never`` or ``unknown``."""
    modes = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    return modes.partition("[")[2].partition("]")[0] or "unknown"


def allowed_cpus() -> list[int]:
    """The CPUs this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_count(cpus: Iterable[int]) -> int:
    """The number of physical cores that these CPUs belong to."""
    return len({_core_of(cpu) for cpu in cpus})


def cpu_quota() -> float | None:
    """The CPUs' worth of time that the control group of this process may use; None: no limit.

    A process that has used it up is stopped until the next period, in the midst of a measurement.
    """
    words = _read("/sys/fs/cgroup/cpu.max").split()
    if not words:  # version 1 of control groups
        words = [_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = map(int, words)
    except ValueError:  # "max", or no control groups
        return None
    return quota / period if quota > 0 and period > 0 else None


def frequency_control() -> dict[str, str | bool]:
    """Who decides the clock rate: ``driver``, ``governor``, whether there is ``turbo``; what is readable."""
    found: dict[str, str | bool] = {}
    for name in ("driver", "governor"):
        if text := _read(f"/sys/devices/system/cpu/cpu0/cpufreq/scaling_{name}"):
            found[name] = text
    switches = {"intel_pstate/no_turbo": "0", "cpufreq/boost": "1"}
    for switch, on in switches.items():
        if text := _read(f"/sys/devices/system/cpu/{switch}"):
            found["turbo"] = text == on
    return found


def clock_source() -> str | None:
    """What the kernel tells the time by, e.g. ``tsc``."""
    return _read("/sys/devices/system/clocksource/clocksource0/current_clocksource") or None


def is_virtual() -> bool:
    """Whether a hypervisor says that it runs this machine."""
    return "hypervisor" in _cpuinfo("flags").split()


def gpus() -> list[Facts]:
    """NVIDIA accelerators: ``name`` and, where the driver's tool tells, ``memory_bytes``, ``driver``, ``capability``.

    All that the machine has, whether this process may use them or not.
    """
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):  # containers may have the driver without the tool
        return [{"name": model} for model in _driver_models()]
    rows = [[word.strip() for word in line.split(",")] for line in told.splitlines() if line.count(",") == 3]
    return [
        {"name": name, "memory_bytes": int(mebibytes) * 2**20, "driver": driver, "capability": capability}
        for name, mebibytes, driver, capability in rows
        if mebibytes.isdigit()
    ]


def choose_cpus(threads: int) -> list[int]:
    """CPUs for one model with ``threads`` threads: whole cores first, the highest numbers first.

    Two hardware threads of one core would compete for it, and the lowest CPUs serve most
    interrupts.

    Raises:
        TargetError: this process may use fewer CPUs.
    """
    allowed = allowed_cpus()
    if threads > len(allowed):
        raise TargetError(
            f"target.threads is {threads}, but this process may use {len(allowed)} CPUs; lower target.threads"
        )
    first_of_core, others, seen = [], [], set()
    for cpu in reversed(allowed):
        core = _core_of(cpu)
        (others if core in seen else first_of_core).append(cpu)
        seen.add(core)
    return sorted((first_of_core + others)[:threads])


@dataclass(frozen=True)
class Contention:
    """How much others use the machine.

    Attributes:
        load: runnable tasks, averaged over one minute; zero where unknown.
        stalled: share of the last ten seconds in which some task waited for a CPU (pressure-stall
            information); None where the kernel does not tell.
        stolen: share of CPU time that the hypervisor gave to other machines since the last look.
    """

    load: float
    stalled: float | None
    stolen: float

    @property
    def busy(self) -> bool:
        return (self.stalled or 0.0) > BUSY_STALLED_SHARE or self.stolen > BUSY_STOLEN_SHARE


class ContentionMeter:
    """Looks at the machine; the time between two looks is what stolen time refers to."""

    def __init__(self) -> None:
        self._before = _cpu_ticks()

    def look(self) -> Contention:
        before, self._before = self._before, _cpu_ticks()
        total, stolen = (now - then for now, then in zip(self._before, before, strict=True))
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return Contention(load, stalled_share(), stolen / total if total > 0 else 0.0)


def contention(seconds: float = 0.2) -> Contention:
    """How busy the machine is now; stolen time is observed for ``seconds``."""
    meter = ContentionMeter()
    time.sleep(seconds)
    return meter.look()


def stalled_share() -> float | None:
    """``some avg10`` of ``/proc/pressure/cpu`` as a fraction; None where there is none."""
    words = _read("/proc/pressure/cpu").split()  # not every kernel has it, or was started with it
    averages = [word.partition("=")[2] for word in words if word.startswith("avg10=")]
    return float(averages[0]) / 100 if averages else None


def _cpu_ticks() -> tuple[float, float]:
    """All CPU seconds since the start of the machine, and those stolen by the hypervisor."""
    import psutil

    times = psutil.cpu_times()
    return sum(times[:8]), getattr(times, "steal", 0.0)


def _cpuinfo(field: str) -> str:
    """The first value of a field in ``/proc/cpuinfo``; empty where there is none."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == field:
                    return value.strip()
    except OSError:
        pass
    return ""


def _core_of(cpu: int) -> str:
    """A name that the hardware threads of one core share."""
    return _read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def _driver_models() -> list[str]:
    """The accelerators' names as the kernel's driver lists them."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        models = [line.partition(":")[2].strip() for line in _read(path).splitlines() if line.startswith("Model:")]
        found += models or ["NVIDIA"]
    return found


def _read(path: str | Path) -> str:
    """A small file of the kernel's without its last line's end; empty where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
