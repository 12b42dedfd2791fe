"""The process in which one contender trains, so that its peak memory is its own.

    python -m benchmarks.distillation_peers.worker '{"contender": …, "workload": {…}, "threads": 2}'

It answers JSON lines as `flashdistill.hardware.runner` does:

    {"do": "describe"} → {"title", "versions", "tasks": [[kind, block, share, borrowed]]}
    {"do": "run", "kind", "block", "warmup", "seconds", "clock"} → the fields of a `Visit`
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.distillation_peers.clock import PhaseTimer, StepClock
from benchmarks.distillation_peers.contender import Contender
from benchmarks.distillation_peers.registry import CONTENDERS
from benchmarks.distillation_peers.workload import Task, Workload
from flashdistill.core.registry import load
from flashdistill.hardware.lines import Commands, converse
from flashdistill.hardware.runner import peak_memory_bytes, reset_peak_memory

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What steps are timed with; CPU time is of all threads, and of use where others use the machine."""


class Bench:
    """Answers the commands for one contender."""

    def __init__(self, contender: Contender, timer: PhaseTimer):
        self._contender, self._timer = contender, timer

    def describe(self) -> dict[str, Any]:
        contender, borrowed = self._contender, self._contender.borrowed()
        return {
            "title": contender.title,
            "versions": contender.versions(),
            "tasks": [[task.kind, task.block, share, task in borrowed] for task, share in contender.shares().items()],
        }

    def run(self, kind: Any, block: int, warmup: int, for_seconds: float, clock: str) -> dict[str, Any]:
        """Train on one task and give the fields of a `Visit`."""
        watch = StepClock(self._timer, warmup, for_seconds, CLOCKS[clock], _forget_peak_memory)
        with self._timer.watching_training():
            self._contender.run(Task(kind, block), watch)
        peak = peak_memory_bytes()
        return {
            "seconds": watch.mean_seconds,
            "steps": len(watch.step_seconds),
            "first_loss": watch.losses[0],
            "phases": watch.phase_shares(),
            "peak_memory_bytes": peak,
            "anonymous_bytes": max(0, peak - _file_backed_bytes()),
        }


def _forget_peak_memory() -> None:
    """Let the high-water mark begin at what is in use now, without what was needed before."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)
    reset_peak_memory()


def _file_backed_bytes() -> int:
    """Resident pages that belong to files: mostly the libraries themselves."""
    return getattr(psutil.Process().memory_info(), "shared", 0)


def open_bench(request: dict[str, Any], directory: Path) -> Bench:
    """The bench that the command line asks for.

    Raises:
        Exception: whatever the contender meets where it does not run here.
    """
    torch.set_num_threads(request["threads"])
    timer = PhaseTimer()
    contender_class = load(CONTENDERS, request["contender"], "contender")
    return Bench(contender_class(Workload.from_json(request["workload"]), timer, directory), timer)


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore")  # of foreign libraries; the log is read when a contender fails
    with tempfile.TemporaryDirectory() as directory:

        def commands(_: Callable[[str], None]) -> Commands:
            bench = open_bench(json.loads(sys.argv[1]), Path(directory))
            return {"describe": bench.describe, "run": bench.run}

        converse(commands)


if __name__ == "__main__":
    main()
