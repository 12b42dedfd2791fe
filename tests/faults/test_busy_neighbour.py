"""Measurements while other processes take every core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashdistill.hardware.parity import Expected, example_inputs
from flashdistill.hardware.session import MeasurementSession
from flashdistill.hardware.settings import MeasurementSettings, TargetSettings
from flashdistill.testing.fake_target import fake_outputs, write_fake_artifact
from tests.faults_catalogue import fault


@contextmanager
def busy_cores() -> Iterator[None]:
    """One process per core that never rests."""
    idle = [sys.executable, "-S", "-c", "while True: pass"]
    processes = [subprocess.Popen(idle) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@fault(17, "a process on every core during the measurement of two models that differ by a tenth", "order right, marked")
def test_ten_percent_are_told_apart_beside_busy_neighbours(tmp_path: Path) -> None:
    # The interval asked for cannot be reached in the time given: so the result must say so.
    rules = MeasurementSettings(tolerance=0.0001, seconds=0.5, final_seconds=0.5, block_ms=2.0, patience_seconds=0.0)
    settings = TargetSettings(runtime="fake", batch_size=2, sequence_length=8, measurement=rules)
    inputs = example_inputs(settings, vocab_size=50, seed=0)
    expected = Expected(inputs, fake_outputs(inputs))
    session = MeasurementSession(settings, write_fake_artifact(tmp_path / "reference.json", 1000), tmp_path / "work", 0)
    with busy_cores():
        slow, fast = (
            session.measure(name, write_fake_artifact(tmp_path / f"{name}.json", microseconds), expected)["latency_ms"]
            for name, microseconds in (("slow", 2200), ("fast", 2000))
        )
    session.close()
    assert slow.value > fast.value
    for measured in (slow, fast):
        assert measured.details["noisy"]
        assert measured.stderr
        assert measured.stderr > 0
