"""Sessions with the fake target: its processes use exactly the CPU time that a test asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashdistill.hardware import device_lock
from flashdistill.hardware.parity import Expected, example_inputs
from flashdistill.hardware.settings import MeasurementSettings, TargetSettings
from flashdistill.testing.fake_target import fake_outputs


@pytest.fixture(autouse=True)
def own_lock_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests must neither wait for a real measurement on this machine nor hold one up."""
    directory = tmp_path / "locks"
    monkeypatch.setattr(device_lock, "lock_directory", lambda: directory)
    return directory


@pytest.fixture
def settings() -> TargetSettings:
    quick = MeasurementSettings(tolerance=0.5, seconds=0.01, block_ms=2.0, patience_seconds=0.0)
    return TargetSettings(runtime="fake", batch_size=2, sequence_length=8, measurement=quick)


@pytest.fixture
def expected(settings: TargetSettings) -> Expected:
    inputs = example_inputs(settings, vocab_size=50, seed=0)
    return Expected(inputs, fake_outputs(inputs))
