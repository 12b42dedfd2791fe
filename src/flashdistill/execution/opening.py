"""From the configuration to an executor, with what this machine has to say to it."""

from __future__ import annotations

import os

from flashdistill.core.registry import load
from flashdistill.execution.executor import Executor, Surroundings
from flashdistill.execution.settings import EXECUTORS, ExecutionSettings


def open_executor(settings: ExecutionSettings, surroundings: Surroundings, world_size: int = 1) -> Executor:
    """The configured executor.

    Args:
        world_size: of processes that share every training, as torchrun starts them; with several
            a training cannot leave them, and runs in this process.

    Raises:
        InputError: it cannot be had: Ray is not installed, the cluster is out of reach or too small.
    """
    if world_size > 1 and settings.kind != "inprocess":
        surroundings.progress.message(
            f"execution: {world_size} processes share every training, so candidates run in them and not in "
            f"{settings.kind}"
        )
        settings = ExecutionSettings(kind="inprocess")  # type: ignore[call-arg]
    cores = os.cpu_count() or 1
    if settings.kind == "processes" and settings.workers > cores:
        surroundings.progress.message(
            f"warning: execution.workers is {settings.workers}, but this machine has {cores} cores; "
            "trainings will take turns on them"
        )
    return load(EXECUTORS, settings.kind, "execution kind")(settings, surroundings)
