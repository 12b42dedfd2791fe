"""The latency of fine-tuned models, heads included, each against the first of them.

Shapes: B sequences, S tokens.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from flashdistill.core.errors import TargetError
from flashdistill.core.files import content_key
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, tracked
from flashdistill.core.registry import load
from flashdistill.core.seeds import derive_seed
from flashdistill.delivery.foreign_export import expected_of_foreign
from flashdistill.delivery.task_export import TASK_FILE, expected_answers
from flashdistill.hardware.artifacts import copy_artifact
from flashdistill.hardware.parity import example_inputs
from flashdistill.hardware.session import MeasurementSession
from flashdistill.hardware.settings import TARGETS, TargetSettings
from flashdistill.scales import SERVING_DIRECTORY

_REFERENCE = "reference"


class TaskLatency:
    """Measures fine-tuned models on one target; connects to it when it is first needed.

    Runtimes that start from a checkpoint (``torch``) serve the encoder, without the head.

    Args:
        shape: the target, with the task's sequence length.
        directory: for studies: a copy of the reference, its latency, raw samples.
        study: what tells this study from others in the directory; the first model that is measured
            in it becomes its reference for good.
    """

    def __init__(self, shape: TargetSettings, directory: Path, study: str, progress: Progress):
        self._shape, self._progress = shape, progress
        self._directory = directory / content_key(shape.identity(), study)
        self._format = load(TARGETS, shape.runtime, "runtime").artifact
        self._session: MeasurementSession | None = None

    def measure(self, name: str, model: Any, directory: Path) -> Mapping[str, Measurement]:
        """Latency, throughput, memory and size of a fine-tuned model in ``directory``.

        Raises:
            TargetError: the target cannot run it, or answers otherwise than PyTorch.
        """
        inputs = example_inputs(self._shape, model.config.vocab_size, seed=0)
        with tempfile.TemporaryDirectory() as scratch, tracked(self._progress, f"measure {name}"):
            artifact = self._artifact(directory, Path(scratch))
            expected = expected_answers(model, inputs) if artifact.is_file() else expected_of_foreign(artifact, inputs)
            session = self._session = self._session or self._opened(artifact)
            measured = session.measure(name, artifact, expected, final=True)
            label = f"{self._shape.runtime}-{self._shape.precision}"
            session.prepare(name, artifact, directory / SERVING_DIRECTORY / label)
        return measured

    def _artifact(self, directory: Path, scratch: Path) -> Path:
        """Of a model's files those that the target is given."""
        if self._format == "onnx":
            return directory / TASK_FILE
        if self._format != "checkpoint":
            raise TargetError(f"{self._shape.runtime} takes the format {self._format}, which no model is delivered in")
        for file in (directory / "config.json", *directory.glob("*.safetensors*")):
            shutil.copyfile(file, scratch / file.name)
        return scratch

    def _opened(self, artifact: Path) -> MeasurementSession:
        kept = self._directory / _REFERENCE
        reference = kept / (TASK_FILE if self._format == "onnx" else _REFERENCE)
        if not reference.exists():
            copied = copy_artifact(artifact, kept)
            copied.rename(reference)
        return MeasurementSession(
            self._shape, reference, self._directory, derive_seed(0, "measurement"), progress=self._progress
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.close()
