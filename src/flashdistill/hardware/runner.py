"""The process in which one model is loaded and timed.

    python -P -m flashdistill.hardware.runner '{"settings": {…}, "cpus": [1]}'

Commands come as JSON lines on standard input, one JSON line answers each on standard output:

    {"do": "load", "artifact": path}                 → {"seconds": s}
    {"do": "infer", "inputs": npz, "outputs": npz}   → {}; the inputs stay for `run`
    {"do": "run", "count": n}                        → {"wall_ns": […], "cpu_ns": […]}
    {"do": "statistics"}                             → {"peak_memory_bytes": …, **description}

A failure answers ``{"error": message}`` and the process goes on. The end of standard input ends
it, so no runner outlives its session. It is small and free of torch: it must start quickly, and
an empty runner is the zero of the memory measurement.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


class Runner:
    """Answers the commands for one target."""

    def __init__(self, settings: dict[str, Any], cpus: list[int]):
        import numpy as np

        from flashdistill.core.registry import load
        from flashdistill.hardware.settings import TARGETS, TargetSettings

        self._numpy = np
        parsed = TargetSettings.model_validate(settings)
        self._target = load(TARGETS, parsed.runtime, "runtime")(parsed)
        self._inputs: dict[str, Any] = {}
        self._cpus = cpus
        self._empty_bytes = 0

    def load(self, artifact: str) -> dict[str, Any]:
        if self._cpus and hasattr(os, "sched_setaffinity"):
            # Now, so that two runners can start side by side on all CPUs, and before the runtime
            # makes its threads, which inherit the pinning.
            os.sched_setaffinity(0, self._cpus)
        self._empty_bytes = reset_peak_memory()
        start = time.perf_counter()
        self._target.load(Path(artifact))
        return {"seconds": time.perf_counter() - start}

    def infer(self, inputs: str, outputs: str) -> dict[str, Any]:
        with self._numpy.load(inputs, allow_pickle=False) as arrays:
            self._inputs = {name: arrays[name] for name in arrays.files}
        results = self._target.infer(self._inputs)
        self._numpy.savez(outputs, *results)
        return {}

    def run(self, count: int) -> dict[str, Any]:
        """Wall and CPU nanoseconds of ``count`` consecutive calls; CPU time is of all threads."""
        infer, inputs = self._target.infer, self._inputs
        wall, cpu = [0] * count, [0] * count
        gc.collect()
        gc.disable()
        try:
            for index in range(count):
                wall_start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
                infer(inputs)
                cpu[index] = time.process_time_ns() - cpu_start
                wall[index] = time.perf_counter_ns() - wall_start
        finally:
            gc.enable()
        return {"wall_ns": wall, "cpu_ns": cpu}

    def statistics(self) -> dict[str, Any]:
        peak = max(0, peak_memory_bytes() - self._empty_bytes)
        return {**self._target.describe(), "peak_memory_bytes": peak}

    def commands(self) -> dict[str, Callable[..., dict[str, Any]]]:
        return {
            "load": self.load,
            "infer": self.infer,
            "run": self.run,
            "statistics": self.statistics,
        }


def _status_bytes(field: str) -> int:
    """A field of ``/proc/self/status`` that is given in kB; zero where there is no such file."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def peak_memory_bytes() -> int:
    """The high-water mark of resident memory since the last reset."""
    return _status_bytes("VmHWM")


def reset_peak_memory() -> int:
    """Forget the high-water mark of the start-up; returns the mark from which to count."""
    with contextlib.suppress(OSError):  # not permitted in some sandboxes: the start-up's peak stays the zero
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory_bytes()


def take_standard_output() -> TextIO:
    """Keep standard output for answers alone; whatever else writes there goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return answers


def serve(commands: dict[str, Callable[..., dict[str, Any]]], requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the end of the stream."""
    for line in requests:
        request = json.loads(line)
        try:
            answer = commands[request.pop("do")](**request)
        except Exception as error:  # every failure is the session's to judge
            answer = {"error": str(error) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    answers = take_standard_output()
    arguments = json.loads(sys.argv[1])
    try:
        runner = Runner(arguments["settings"], arguments["cpus"])
    except Exception as error:
        answers.write(json.dumps({"error": str(error)}) + "\n")
        answers.flush()
        return
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    serve(runner.commands(), sys.stdin, answers)


if __name__ == "__main__":
    main()
