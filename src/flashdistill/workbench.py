"""What all candidates of a run work with: teacher, text, family, measuring session."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.seeds import derive_seed
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.delivery.export import expected_features, random_encoder
from flashdistill.distillation.distill import Distillation
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.distillation.teacher_preparation import PreparedTeacher
from flashdistill.hardware.cache import MeasurementCache, measurement_key
from flashdistill.hardware.parity import example_inputs
from flashdistill.hardware.session import MeasurementSession
from flashdistill.models.parameter_count import count_parameters
from flashdistill.training.checkpoint import CheckpointStore

SIGNAL_CACHE_BYTES = 8 * 1024**3
"""Disk for the teacher's answers; beyond it they are computed anew for every candidate."""


@dataclass
class Scales:
    """Measures architectures on the target, with random weights, against the baseline."""

    config: RunConfig
    family: StudentFamily
    work_directory: Path
    progress: Progress

    @cached_property
    def session(self) -> MeasurementSession:
        _, reference = random_encoder(self.config.baseline, self.family, self.config.cache_directory)
        return MeasurementSession(
            self.config.target,
            reference,
            self.work_directory,
            derive_seed(self.config.seed, "measurement"),
            progress=self.progress,
            cache=MeasurementCache(self.config.cache_directory / "measurements"),
        )

    def measure(self, architecture: Architecture) -> dict[str, Measurement]:
        """Latency, memory and size of an architecture; from the cache where they are known.

        Raises:
            TargetError: the architecture cannot be exported, answers wrongly or cannot be run.
        """
        key = measurement_key(architecture, self.family, self.config.baseline, self.config.target)
        if (known := self.session.recall(key)) is not None:
            return known
        student, artifact = random_encoder(architecture, self.family, self.config.cache_directory)
        inputs = example_inputs(self.config.target, self.family.vocab_size, self.config.seed)
        return self.session.measure(str(architecture), artifact, expected_features(student, inputs), key=key)

    def close(self) -> None:
        if "session" in self.__dict__:
            self.session.close()


@dataclass
class Workbench:
    """The live resources of a run. ``config`` is replaced once its step counts are resolved."""

    config: RunConfig
    directory: RunDirectory
    prepared: PreparedTeacher
    progress: Progress
    scales: Scales = field(init=False)

    def __post_init__(self) -> None:
        tokenizer: Any = self.prepared.tokenizer
        self.family = self.config.student_family(len(tokenizer), tokenizer.pad_token_id)
        self.scales = Scales(self.config, self.family, self.directory.measurements, self.progress)
        self.pretraining_data = self._data("pretraining-data")
        self.stage_data = self._data("stage-data")
        self._signals: dict[int, TeacherSignals] = {}

    def num_parameters(self, architecture: Architecture) -> int:
        """Parameters of the encoder; pooler and heads are not counted."""
        return count_parameters(architecture, self.family)

    def signals(self, batch_size: int) -> TeacherSignals:
        """The teacher's answers at a batch size, shared by all candidates."""
        if batch_size not in self._signals:
            self._signals[batch_size] = TeacherSignals(
                self.prepared.teacher,
                self.stage_data,
                self.pretraining_data,
                batch_size,
                self.directory.signals / f"batch-{batch_size}",
                SIGNAL_CACHE_BYTES,
                self.prepared.identity,
            )
        return self._signals[batch_size]

    def distillation(
        self, architecture: Architecture, settings: DistillationSettings, work: Path | None, task: str
    ) -> Distillation:
        """The distillation of an architecture, resumable in ``work``; with None it keeps nothing."""
        return Distillation(
            architecture,
            self.family,
            self.signals(settings.batch_size),
            settings,
            derive_seed(self.config.seed, "student", architecture),
            CheckpointStore(work / "checkpoints") if work else None,
            self.progress,
            task,
        )

    def _data(self, stream: str) -> PretrainingData:
        return PretrainingData(
            self.prepared.corpus,
            self.prepared.tokenizer,
            self.config.corpus,
            derive_seed(self.config.seed, stream),
        )
