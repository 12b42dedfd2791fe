"""What a distilled student scores on held-out text, by itself and as the targets serve it."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import AGAINST_TEACHER, Measurement
from flashdistill.core.progress import tracked
from flashdistill.delivery.export import write_encoder
from flashdistill.distillation.distill import Distilled
from flashdistill.evaluation.pretraining_accuracy import pretraining_accuracy, student_predictor, teacher_predictor
from flashdistill.evaluation.served_accuracy import served_accuracy
from flashdistill.interim import EVALUATION_BATCH
from flashdistill.scales import SERVED_ACCURACY, Scale
from flashdistill.workbench import Workbench


def evaluate(
    bench: Workbench, architecture: Architecture, distilled: Distilled, *, finished: bool = False
) -> dict[str, Measurement]:
    """Accuracy on held-out text, with the same masks for every student; also as each target serves it.

    Args:
        finished: after regular distillation; see `held_out_scores`.

    Raises:
        TargetError: a target cannot serve the student.
    """
    return held_out_scores(bench, distilled, finished=finished) | as_served(bench, architecture, distilled.student)


def served_otherwise(bench: Workbench) -> list[Scale]:
    """The targets for which `as_served` has something to say."""
    return [scale for scale in bench.scales.all if scale.serves_otherwise]


def held_out_scores(bench: Workbench, distilled: Distilled, *, finished: bool = False) -> dict[str, Measurement]:
    """`pretraining_accuracy` of a student on the validation text.

    Args:
        finished: compare it with the teacher too, which costs the first of them a pass of the teacher;
            otherwise it is compared only where the search asks for that.
    """
    asked = {one.metric for one in (*bench.config.objectives, *bench.config.constraints)}
    compared = finished or not asked.isdisjoint(AGAINST_TEACHER)
    return pretraining_accuracy(
        student_predictor(distilled.student, with_nsp="nsp" in bench.config.tasks),
        bench.pretraining_data.validation_batches(EVALUATION_BATCH),
        teacher_predictor(bench.prepared.teacher, bench.teacher_features) if compared else None,
    )


def as_served(
    bench: Workbench, architecture: Architecture, student: MobileBertForPreTraining
) -> dict[str, Measurement]:
    """The accuracy on those targets that compute something else than the student does, in int8 for example.

    Raises:
        TargetError: a target cannot serve the student.
    """
    scales = served_otherwise(bench)
    if not scales:
        return {}
    found: dict[str, Measurement] = {}
    shape = (EVALUATION_BATCH, bench.config.corpus.max_length)
    student = copy.deepcopy(student).cpu()
    for scale in scales:
        with tempfile.TemporaryDirectory() as directory, tracked(bench.progress, f"score {architecture} as served"):
            artifact = write_encoder(student, Path(directory), scale.artifact_format)
            with scale.serving(str(architecture), artifact, shape) as serve:
                batches = bench.pretraining_data.validation_batches(EVALUATION_BATCH)
                found |= scale.named({SERVED_ACCURACY: served_accuracy(student, serve, shape, batches)})
    return found


def teacher_scores(bench: Workbench) -> dict[str, Measurement]:
    """The teacher's own accuracy on the validation text."""
    batches = bench.pretraining_data.validation_batches(EVALUATION_BATCH)
    return pretraining_accuracy(teacher_predictor(bench.prepared.teacher, bench.teacher_features), batches)
