"""What this machine can do, and what will go wrong on it: the data of ``flashdistill doctor``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from flashdistill.hardware.machine import Contention, Facts, allowed_cpus, contention, fingerprint

_GEMM_SIZE = 1024
_TRIAD_ELEMENTS = 8_000_000


def doctor_report() -> dict[str, Any]:
    """The machine's facts, its measured peaks, its present load and warnings.

    Keys: ``machine`` (see `fingerprint`), ``gemm_gflops`` (float32 matrix product, as many
    threads as NumPy's BLAS uses), ``memory_gb_per_s`` (triad, one thread), ``load``,
    ``stalled_share``, ``stolen_share``, ``free_memory_bytes`` and ``warnings`` (sentences).
    Takes about two seconds.
    """
    now = contention()  # before the peaks, which load the machine themselves
    machine = fingerprint()
    swapped = psutil.swap_memory().used
    return {
        "machine": machine,
        "gemm_gflops": gemm_gflops(),
        "memory_gb_per_s": triad_gb_per_s(),
        "load": now.load,
        "stalled_share": now.stalled,
        "stolen_share": now.stolen,
        "free_memory_bytes": psutil.virtual_memory().available,
        "warnings": warnings_for(machine, len(allowed_cpus()), now, swapped),
    }


def gemm_gflops(size: int = _GEMM_SIZE, seconds: float = 0.5) -> float:
    """Best rate of a float32 matrix product in 10⁹ operations per second; 2·size³ operations each."""
    left = np.ones((size, size), dtype=np.float32)
    right, out = left.copy(), np.empty_like(left)
    return 2 * size**3 / _best_seconds(lambda: np.matmul(left, right, out=out), seconds) / 1e9


def triad_gb_per_s(elements: int = _TRIAD_ELEMENTS, seconds: float = 0.5) -> float:
    """Best rate of ``a = b + s·c`` in 10⁹ bytes per second.

    NumPy makes two passes of it, ``a = s·c`` and ``a = a + b``: five arrays of float32 are read
    or written.
    """
    b, c = np.ones(elements, dtype=np.float32), np.ones(elements, dtype=np.float32)
    a = np.empty_like(b)

    def triad() -> None:
        np.multiply(c, np.float32(3), out=a)
        np.add(a, b, out=a)

    return 5 * b.nbytes / _best_seconds(triad, seconds) / 1e9


def warnings_for(machine: Facts, cpus: int, now: Contention, swapped_bytes: int) -> list[str]:
    """What a user should know before trusting this machine, one sentence each."""
    found = []
    instructions = str(machine["instructions"]).split()
    if not {"avx512_bf16", "amx_bf16", "bf16"}.intersection(instructions):
        found.append("bfloat16 has no instructions on this CPU and is emulated; training uses float32")
    if cpus < 2:
        found.append("only one CPU may be used: whatever else runs disturbs the measurements")
    if swapped_bytes > 256 * 2**20:
        found.append(f"{swapped_bytes / 2**30:.1f} GiB are swapped out; free memory before measuring")
    if now.busy:
        stalled = "" if now.stalled is None else f"{now.stalled:.0%} of the time tasks wait for a CPU, "
        found.append(
            f"the machine is busy now ({stalled}{now.stolen:.0%} is stolen by its host): "
            "measurements will take longer and be less precise"
        )
    elif now.stalled is None:
        found.append("the kernel gives no pressure-stall information; a busy machine is noticed by its effects only")
    return found


def _best_seconds(work: Callable[[], object], seconds: float) -> float:
    """The shortest duration of ``work`` among repetitions for ``seconds``, after a first one."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
