"""Regular distillation of one selected student, up to its delivery."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import MobileBertForPreTraining

from flashdistill.candidate import distil
from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import timed
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import tracked
from flashdistill.delivery.deliver import deliver
from flashdistill.delivery.record import DeliveredModel
from flashdistill.scoring import evaluate
from flashdistill.workbench import Workbench


def distil_and_deliver(
    bench: Workbench, architecture: Architecture, flash: Mapping[str, Measurement]
) -> DeliveredModel:
    """Distil with the regular budget, score, export, measure the final weights, write the model directory.

    Args:
        flash: the architecture's measurements in the search, for comparison; may be empty.

    Raises:
        DivergedError: the training diverged.
        TargetError: the exported model answers differently or cannot be measured.
    """
    costs: dict[str, float] = {}
    [distilled] = distil(bench, [architecture], "regular", [costs])
    if isinstance(distilled, Exception):
        raise distilled
    with timed(costs, "evaluate"):
        scores = evaluate(bench, architecture, distilled, finished=True)
    student = distilled.student.cpu()
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
        with timed(costs, "measure"):
            return bench.scales.measure_model(architecture, student, work)

    with tracked(bench.progress, f"deliver {architecture}"):
        model = deliver(model, student, bench.prepared.tokenizer, directory, bench.config.target, measure)
    shutil.rmtree(bench.directory.candidate(architecture) / "regular" / "checkpoints", ignore_errors=True)
    return model
