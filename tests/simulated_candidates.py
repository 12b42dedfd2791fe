"""Candidates whose results are known beforehand, for tests of what happens around them."""

from __future__ import annotations

import time

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement
from flashdistill.execution.executor import Worker


def known_results(architecture: Architecture) -> dict[str, Measurement]:
    """What `simulated` measures: the same in every process, another for every architecture."""
    size = float(sum(place * value for place, value in enumerate(architecture.values(), start=1) if value))
    return {
        "mlm_accuracy": Measurement.of("mlm_accuracy", 1 - 1 / size, stderr=1e-3),
        "latency_ms": Measurement.of("latency_ms", size / 100, stderr=1e-2),
    }


def simulated(architecture: Architecture, seconds: float, worker: Worker) -> dict[str, Measurement]:
    """A candidate's life in a worker: some time, then its results."""
    time.sleep(seconds)
    return known_results(architecture)
