"""The process in which one model is loaded and timed.

    python -P -m flashdistill.hardware.runner '{"settings": {…}, "cpus": [1]}'

Its commands, each a JSON line with one line in answer (`flashdistill.hardware.lines`):

    {"do": "prepare", "artifact": path, "directory": path}  → {"artifact": path, "seconds": s}
    {"do": "load", "artifact": path}                        → {"seconds": s, "artifact_bytes": …}
    {"do": "infer", "inputs": arrays}                       → {"outputs": arrays}; the inputs stay for `run`
    {"do": "run", "count": n}                               → {"wall_ns": […], "cpu_ns": […]}
    {"do": "statistics"}                                    → {"peak_memory_bytes": …, **description}

A failure answers ``{"error": message}`` and the process goes on; with its coordinator it ends. It
is small and free of torch: it must start quickly, and an empty runner is the zero of the memory
measurement.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from flashdistill.core.files import read_json, write_json, writing
from flashdistill.hardware.artifacts import artifact_bytes
from flashdistill.hardware.lines import Answer, Commands, converse, pack, unpack


class Runner:
    """Answers the commands for one target."""

    def __init__(self, settings: dict[str, Any], cpus: list[int]):
        from flashdistill.core.registry import load
        from flashdistill.hardware.settings import TARGETS, TargetSettings

        parsed = TargetSettings.model_validate(settings)
        self._target = load(TARGETS, parsed.runtime, "runtime")(parsed)
        self._inputs: dict[str, Any] = {}
        self._cpus = cpus
        self._empty_bytes = 0
        self._peak_bytes: int | None = None

    def prepare(self, artifact: str, directory: str) -> Answer:
        """What the runtime makes of a model, in ``directory``; from there where it was made before.

        A mark beside the directory, written last, tells what is complete. The files are not moved
        afterwards: what a runtime keeps may name its own place.
        """
        place, mark = Path(directory), Path(f"{directory}.json")
        if mark.exists():
            kept = read_json(mark)
            return {"artifact": str(place / kept["artifact"]), "seconds": kept["seconds"]}
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        start = time.perf_counter()
        with writing(place):
            prepared = self._target.prepare(Path(artifact), place)
        seconds = time.perf_counter() - start
        if prepared == Path(artifact):
            shutil.rmtree(place)
        else:
            write_json(mark, {"artifact": prepared.relative_to(place).as_posix(), "seconds": seconds})
        return {"artifact": str(prepared), "seconds": seconds}

    def load(self, artifact: str) -> Answer:
        self._empty_bytes, self._peak_bytes = reset_peak_memory(), None
        start = time.perf_counter()
        self._target.load(Path(artifact))
        seconds = time.perf_counter() - start
        # Not before, so that two runners can start and load side by side on all CPUs.
        pin_all_threads(self._cpus)
        return {"seconds": seconds, "artifact_bytes": artifact_bytes(Path(artifact))}

    def infer(self, inputs: str) -> Answer:
        self._inputs = unpack(inputs)
        outputs = self._target.infer(self._inputs)
        if self._peak_bytes is None:  # before the answer is packed, which takes memory that serving does not
            self._peak_bytes = peak_memory_bytes()
        return {"outputs": pack(outputs)}

    def run(self, count: int) -> Answer:
        """Wall and CPU nanoseconds of ``count`` consecutive calls; CPU time is of all threads."""
        gc.collect()
        gc.disable()
        try:
            wall, cpu = self._time(count)
        finally:
            gc.enable()
        return {"wall_ns": wall, "cpu_ns": cpu}

    def statistics(self) -> Answer:
        peak = peak_memory_bytes() if self._peak_bytes is None else self._peak_bytes
        # What an accelerator holds is its own account; the process beside it says little about the model.
        described = {"device_peak_memory_bytes": max(0, peak - self._empty_bytes)} | self._target.describe()
        return {**described, "peak_memory_bytes": described.pop("device_peak_memory_bytes")}

    def commands(self) -> Commands:
        return {
            "prepare": self.prepare,
            "load": self.load,
            "infer": self.infer,
            "run": self.run,
            "statistics": self.statistics,
        }

    def _time(self, count: int) -> tuple[list[int], list[int]]:
        if self._target.device_call is not None:
            from flashdistill.hardware.device_timing import time_device_calls

            return time_device_calls(self._target.device_call, count)
        infer, inputs = self._target.infer, self._inputs
        wall, cpu = [0] * count, [0] * count
        for index in range(count):
            wall_start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
            infer(inputs)
            cpu[index] = time.process_time_ns() - cpu_start
            wall[index] = time.perf_counter_ns() - wall_start
        return wall, cpu


def pin_all_threads(cpus: list[int]) -> None:
    """Keep this process on some CPUs: the threads that it has, and those that they will make."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        return
    tasks = Path("/proc/self/task")
    for thread in [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(thread, cpus)


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


def main() -> None:
    arguments = json.loads(sys.argv[1])
    converse(lambda _: Runner(arguments["settings"], arguments["cpus"]).commands())
    os._exit(0)  # taking a runtime and its model apart would cost every pass of a measurement half a second


if __name__ == "__main__":
    main()
