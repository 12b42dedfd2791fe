"""Regular distillation of the selected students, up to their delivery."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import MobileBertForPreTraining

from flashdistill.candidate import scored_as_served
from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import timed
from flashdistill.core.errors import FlashDistillError
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import tracked
from flashdistill.core.trial import TrialState
from flashdistill.delivery.deliver import deliver
from flashdistill.delivery.record import DeliveredModel
from flashdistill.models.delivered import load_student
from flashdistill.scales import SERVING_DIRECTORY
from flashdistill.trainings import Trained, Training
from flashdistill.workbench import Workbench


def regular_training(architecture: Architecture) -> Training:
    """The training whose student is delivered."""
    return Training((architecture,), "regular", finished=True, send_students=True)


def deliver_trained(bench: Workbench, trained: Trained, flash: Mapping[str, Measurement]) -> DeliveredModel:
    """Export a student, measure the final weights, write the model directory.

    Args:
        trained: of a `regular_training`.
        flash: the architecture's measurements in the search, for comparison; may be empty.

    Raises:
        FlashDistillError: its training failed; the message is the reason.
        TargetError: the exported model answers differently or cannot be measured.
    """
    if trained.state is not TrialState.COMPLETE:
        raise FlashDistillError(trained.reason)
    architecture, costs = trained.architecture, dict(trained.costs)
    scores = {**trained.scores, **scored_as_served(bench, trained, costs)}
    directory = bench.directory.model(architecture)
    model = DeliveredModel(
        architecture=architecture,
        directory=f"{directory.parent.name}/{directory.name}",
        measurements={
            "num_parameters": Measurement.of("num_parameters", bench.num_parameters(architecture)),
            **scores,
        },
        flash_measurements=flash,
        steps=bench.config.regular.total_steps(bench.family.depth(architecture)),
        costs=costs,
        is_baseline=architecture == bench.config.baseline,
    )

    def measure(student: MobileBertForPreTraining, work: Path) -> Mapping[str, Measurement]:
        path = work.absolute()
        with timed(costs, "measure"):
            served = bench.at_targets(f"measure {architecture}", partial(_measured, architecture, path), (path,))
        for name, content in served.files.items():
            if not (path / name).exists():  # it was measured on a machine with a disk of its own
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        return served.measurements

    with tracked(bench.progress, f"deliver {architecture}"):
        student = trained.student(bench)
        model = deliver(model, student, bench.prepared.tokenizer, directory, bench.config.target, measure)
    shutil.rmtree(bench.directory.candidate(architecture) / "regular" / "checkpoints", ignore_errors=True)
    return model


@dataclass(frozen=True)
class _Served:
    """What measuring a finished model gives.

    Attributes:
        files: by their names in the model's directory, what the targets' runtimes made of it.
    """

    measurements: Mapping[str, Measurement]
    files: Mapping[str, bytes]


def _measured(architecture: Architecture, directory: Path, bench: Workbench) -> _Served:
    found = bench.scales.measure_model(architecture, load_student(directory), directory)
    made = [path for path in (directory / SERVING_DIRECTORY).rglob("*") if path.is_file()]
    return _Served(found, {str(path.relative_to(directory)): path.read_bytes() for path in made})
