"""The command line on the tiny run, in a process of its own that may be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from flashdistill.delivery.record import RunRecord
from tests.tiny_run import write_run

SETTINGS = [
    # Latencies differ from run to run, and with them what the search suggests; sizes do not.
    "objectives=[{maximize: mlm_accuracy}, {minimize: num_parameters}]",
    "execution={kind: processes, workers: 1}",
]

ON_RAY = "execution={kind: ray, workers: 1, threads: 1}"

_RUNNER, _NURSERY = "flashdistill.hardware.runner", "flashdistill.execution.nursery"
_RAY_WORKER = "ray::RayWorker"


def prepare(directory: Path) -> None:
    """Text and configuration of the tiny run."""
    directory.mkdir(parents=True, exist_ok=True)
    write_run(directory)


def start(directory: Path, verb: str, *overrides: str) -> subprocess.Popen[str]:
    """``flashdistill VERB tiny.yaml OVERRIDES`` in a directory; its output goes to files there."""
    locks = directory / "locks"  # neither to wait for a measurement of somebody else nor to hold one up
    locks.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", "from flashdistill.cli import main; main()"]
    with (directory / "stderr").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, verb, "tiny.yaml", *overrides],
            cwd=directory,
            env=os.environ | {"TMPDIR": str(locks), "RAY_TMPDIR": "/tmp", "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            text=True,
        )


def finish(process: subprocess.Popen[str], directory: Path, seconds: float = 600) -> int:
    """Wait for the end; the exit code."""
    try:
        return process.wait(seconds)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
            print((directory / "stderr").read_text(encoding="utf-8"))


def victims(driver: int, kind: str) -> list[psutil.Process]:
    """The processes of a run that are of this kind now: the driver, workers, Ray's, or measurement processes."""
    try:
        root = psutil.Process(driver)
        if kind == "driver":
            return [root]
        if kind == "measurement":
            return [child for child in root.children(recursive=True) if _runs(child, _RUNNER)]
        if kind == "Ray worker":
            return [child for child in root.children(recursive=True) if _runs(child, _RAY_WORKER)]
        nurseries = [child for child in root.children() if _runs(child, _NURSERY)]
        return [worker for nursery in nurseries for worker in nursery.children()]
    except psutil.Error:
        return []


def _runs(process: psutil.Process, module: str) -> bool:
    try:
        return any(module in part for part in process.cmdline())
    except psutil.Error:
        return False


def outcome(directory: Path) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions: every trial's number, architecture, state and scores."""
    metrics = ("mlm_loss", "mlm_accuracy", "nsp_accuracy", "num_parameters")
    return [
        (trial.number, str(trial.architecture), str(trial.state), trial.reason, *map(trial.value, metrics))
        for trial in RunRecord.load(directory / "run").trials
    ]
