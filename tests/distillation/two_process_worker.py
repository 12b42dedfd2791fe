"""A small distillation as each of several processes runs it: PRESET CURVES.json [STORE [KILL_AT]]."""

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
from flashdistill.training.compute import open_compute
from flashdistill.training.settings import TrainingSettings


def main() -> None:
    preset, curves = sys.argv[1], Path(sys.argv[2])
    store = CheckpointStore(Path(sys.argv[3]), every_seconds=0) if len(sys.argv) > 3 else None
    kill_at = int(sys.argv[4]) if len(sys.argv) > 4 else -1
    torch.set_num_threads(1)
    compute = open_compute(TrainingSettings.model_validate({"device": "cpu"}))
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
    if compute.is_main:
        found = {name: curve.points for name, curve in distillation.curves.items()}
        curves.write_text(json.dumps(found), encoding="utf-8")
    compute.wait()
    if compute.world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
