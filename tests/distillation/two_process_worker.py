"""Small distillations as each of several processes runs them: CURVES.json [STORE KILL_AT]."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from flashdistill.distillation.distill import Distillation
from flashdistill.distillation.settings import DistillationSettings, SignalSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, TinyData, tiny_teacher
from flashdistill.training.checkpoint import CheckpointStore
from flashdistill.training.compute import Compute, open_compute
from flashdistill.training.settings import TrainingSettings

Curves = dict[str, list[tuple[int, float]]]


def distil(preset: str, compute: Compute, store: CheckpointStore | None = None, kill_at: int = -1) -> Curves:
    """Loss curves of a small distillation; the main process is killed at step ``kill_at``."""
    settings = DistillationSettings.model_validate(
        {
            "preset": preset,
            "steps_per_block": 4,
            "pretraining_steps": 8,
            "batch_size": 6,
            "optimizer": "adamw",
            "learning_rate": 2e-3,
        }
    )
    signals = TeacherSignals(
        tiny_teacher(), TinyData(1), TinyData(2), 6, SignalSettings.model_validate({}), settings.losses
    )
    distillation = Distillation(ARCHITECTURE, FAMILY, signals, settings, 3, compute, store)
    for number, _ in enumerate(distillation.steps()):
        if number == kill_at and compute.is_main:
            os.kill(os.getpid(), signal.SIGKILL)
    return {name: curve.points for name, curve in distillation.curves.items()}


def main() -> None:
    """Both presets, or the paper's alone from a store, killed or not; the curves by preset go to a file."""
    path = Path(sys.argv[1])
    torch.set_num_threads(1)
    compute = open_compute(TrainingSettings.model_validate({"device": "cpu"}))
    if len(sys.argv) > 2:
        store = CheckpointStore(Path(sys.argv[2]), every_seconds=0)
        found = {"paper": distil("paper", compute, store, kill_at=int(sys.argv[3]))}
    else:
        found = {preset: distil(preset, compute) for preset in ("paper", "mobilebert")}
    if compute.is_main:
        path.write_text(json.dumps(found), encoding="utf-8")
    compute.close()


if __name__ == "__main__":
    main()
