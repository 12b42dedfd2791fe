"""Connecting to a Ray cluster, and whether it has what trainings ask for."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
from typing import Any

from flashdistill.core.errors import InputError
from flashdistill.execution.executor import Surroundings
from flashdistill.execution.settings import ExecutionSettings


def connect(settings: ExecutionSettings, surroundings: Surroundings) -> tuple[Any, bool]:
    """The module ``ray``, connected; and whether the cluster is our own.

    Raises:
        InputError: it is not installed, or the cluster is out of reach or too small.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # on a busy machine
    try:
        import ray
    except ImportError:
        raise InputError(
            "execution.kind ray needs Ray, which is not installed; pip install 'flashdistill[ray]'"
        ) from None
    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    wanted = settings.resources_per_training
    if settings.address is None:
        processes = max(settings.workers, settings.processes_per_training)
        cpus = max(os.cpu_count() or 1, math.ceil(processes * wanted.num_cpus))
        # Workers on this machine import what this process does.
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
        try:
            ray.init(num_cpus=cpus, include_dashboard=False, runtime_env=paths, **quiet)
        except OSError as error:
            if "AF_UNIX" not in str(error):
                raise
            raise InputError(
                "Ray keeps sockets in the directory for temporary files, and its path is too long for them "
                f"({tempfile.gettempdir()}); set RAY_TMPDIR to a short one, such as /tmp"
            ) from error
    else:
        try:
            ray.init(address=settings.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"execution.address: no Ray cluster answers at {settings.address}: {error}") from error
    try:
        compare(ray.nodes(), settings, surroundings)
    except InputError:
        ray.shutdown()
        raise
    return ray, settings.address is None


def compare(nodes: list[dict[str, Any]], settings: ExecutionSettings, surroundings: Surroundings) -> None:
    """Say where no machine of the cluster is large enough, which only one that grows can help.

    Raises:
        InputError: it is a cluster of this machine alone, which does not grow.
    """
    wanted = {"CPU": settings.resources_per_training.num_cpus, "GPU": settings.resources_per_training.num_gpus}
    if any(all(node["Resources"].get(kind, 0) >= need for kind, need in wanted.items()) for node in nodes):
        return
    needs = " and ".join(f"{need:g} {kind}s" for kind, need in wanted.items() if need)
    problem = f"execution.resources_per_training asks for {needs}, but no machine of the Ray cluster has that"
    if settings.address is None:
        raise InputError(f"{problem}; ask for less, or name a cluster with execution.address")
    surroundings.progress.message(f"{problem} now; waiting until one joins")
