"""The fake target keeps the contract that it stands in for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.base import Target
from flashdistill.testing.fake_target import FakeTarget, fake_outputs, write_fake_artifact
from flashdistill.testing.target_conformance import TargetConformance


class TestFakeTarget(TargetConformance):
    @pytest.fixture
    def exported(self, tmp_path: Path) -> Path:
        return write_fake_artifact(tmp_path / "model.json", latency_us=1)

    def make_target(self, settings: TargetSettings) -> Target:
        return FakeTarget(settings)

    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        return fake_outputs(inputs)
