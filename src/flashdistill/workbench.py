"""What all candidates of a run work with: teacher, text, family, measuring session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.core.progress import Progress
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.seeds import derive_seed
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.distillation.calibration import StepSeconds, time_steps
from flashdistill.distillation.distill import Distillation, Distilled
from flashdistill.distillation.inspection import Inspection, Judge
from flashdistill.distillation.layer_map import layer_map
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.side_by_side import distill_side_by_side
from flashdistill.distillation.signals import TeacherSignals, signals_name
from flashdistill.distillation.teacher_preparation import PreparedTeacher
from flashdistill.models.parameter_count import count_parameters
from flashdistill.scales import Scales
from flashdistill.training.checkpoint import CheckpointStore
from flashdistill.training.compute import Compute

Budget = Literal["flash", "regular"]


@dataclass(frozen=True)
class DistillJob:
    """What the main process asks the others to take part in: `Workbench.take_part`.

    Attributes:
        repeat: which training seed: 0 is the first, further ones confirm its result.
        inspected: whether the students are looked at on the way.
    """

    architectures: tuple[Architecture, ...]
    budget: str
    settings: DistillationSettings
    repeat: int = 0
    inspected: bool = False


@dataclass(frozen=True)
class TimingJob:
    """The same for `Workbench.time_steps`."""

    architecture: Architecture
    settings: DistillationSettings


@dataclass
class Workbench:
    """The live resources of a run. ``config`` is replaced once its step counts are resolved.

    Attributes:
        validation_features: what the teacher has said about held-out batches, for
            `evaluation.pretraining_accuracy.teacher_predictor`.
    """

    config: RunConfig
    directory: RunDirectory
    prepared: PreparedTeacher
    progress: Progress
    compute: Compute = field(default_factory=Compute)
    validation_features: list[torch.Tensor] = field(default_factory=list)
    scales: Scales = field(init=False)

    def __post_init__(self) -> None:
        tokenizer: Any = self.prepared.tokenizer
        self.family = self.config.student_family(len(tokenizer), tokenizer.pad_token_id)
        self.scales = Scales(self.config, self.family, self.directory.measurements, self.progress)
        self.pretraining_data = self._data("pretraining-data")
        self.stage_data = self._data("stage-data")
        self.prepared.teacher.to(self.compute.device)
        self._signals: dict[tuple[str, int], TeacherSignals] = {}

    def num_parameters(self, architecture: Architecture) -> int:
        """Parameters of the encoder; pooler and heads are not counted."""
        return count_parameters(architecture, self.family)

    def distill(
        self,
        architectures: Sequence[Architecture],
        budget: str,
        judges: Sequence[Judge] | None = None,
        repeat: int = 0,
        settings: DistillationSettings | None = None,
    ) -> list[Distilled | Exception]:
        """Distil or resume architectures side by side; with several processes, together with the others.

        Args:
            budget: ``flash`` or ``regular``; another name needs ``settings``.
            judges: one per architecture, asked on the way whether to go on; None: nobody is asked.
            repeat: another number is another training seed.
            settings: resolved ones, for another budget than the two configured.

        Returns:
            Per architecture the student, or what stopped it.
        """
        settings = settings or (self.config.flash if budget == "flash" else self.config.regular)
        job = DistillJob(tuple(architectures), budget, settings, repeat, judges is not None)
        self.compute.from_main(job)
        return self.take_part(job, judges)

    def take_part(self, job: DistillJob, judges: Sequence[Judge] | None = None) -> list[Distilled | Exception]:
        """`distill` as every process does it."""
        task = {"flash": "distil {}", "regular": "regular distillation of {}"}.get(
            job.budget, f"distil {{}}, {job.budget}"
        )
        if job.repeat:
            task = f"confirm {{}} with seed {job.repeat}" if job.budget == "flash" else f"{task} with seed {job.repeat}"

        def build(index: int) -> Distillation:
            architecture = job.architectures[index]
            work = self.work_directory(architecture, job.budget, job.repeat)
            distillation = self.distillation(
                architecture, job.settings, work, task.format(architecture), repeat=job.repeat
            )
            if job.inspected:
                distillation.inspection = Inspection(judges[index] if judges else None)
            return distillation

        return distill_side_by_side([partial(build, index) for index in range(len(job.architectures))])

    def work_directory(self, architecture: Architecture, budget: str, repeat: int = 0) -> Path:
        """Where a distillation keeps its checkpoints and its learning curve."""
        seeded = f"confirm-{repeat}" if budget == "flash" else f"{budget}-{repeat}"
        return self.directory.candidate(architecture) / (seeded if repeat else budget)

    def time_steps(self, architecture: Architecture, settings: DistillationSettings) -> StepSeconds:
        """What steps of an architecture cost; with several processes, together with the others."""
        self.compute.from_main(TimingJob(architecture, settings))
        return time_steps(self.distillation(architecture, settings, None, "calibrate"))

    def signals(self, settings: DistillationSettings) -> TeacherSignals:
        """The teacher's answers that a budget needs, shared by all candidates."""
        kept = self.config.signals
        share = kept.model_copy(update={"disk_gib": kept.disk_gib / self.compute.world_size})
        name, steps = signals_name(settings), self._most_pretraining_steps(settings)
        if (name, steps) not in self._signals:
            self._signals[name, steps] = TeacherSignals(
                self.prepared.teacher,
                self.stage_data,
                self.pretraining_data,
                settings.batch_size,
                share,
                settings.losses,
                self.directory.signals / name,
                self.prepared.identity,
                self._taught_blocks(),
                remember_step=self.config.flash.students_per_teacher > 1,
                pretraining_steps=steps,
            )
        return self._signals[name, steps]

    def distillation(
        self,
        architecture: Architecture,
        settings: DistillationSettings,
        work: Path | None,
        task: str,
        repeat: int = 0,
    ) -> Distillation:
        """The distillation of an architecture, resumable in ``work``; with None it keeps nothing."""
        seed_of_repeat = ("repeat", repeat) if repeat else ()
        return Distillation(
            architecture,
            self.family,
            self.signals(settings),
            settings,
            derive_seed(self.config.seed, "student", architecture, *seed_of_repeat),
            self.compute,
            CheckpointStore(work / "checkpoints") if work else None,
            self.progress,
            task,
        )

    def follow(self) -> None:
        """In every process but the main one: take part in what it asks for, until it has finished.

        A distillation that fails does so in all processes alike; the main one reports it.
        """
        while (job := self.compute.from_main()) is not None:
            if isinstance(job, TimingJob):
                time_steps(self.distillation(job.architecture, job.settings, None, "calibrate"))
            else:
                self.take_part(job)

    def _most_pretraining_steps(self, settings: DistillationSettings) -> int:
        """Of the budgets that share these signals; 0 while they are not calibrated."""
        sharing = [
            one for one in (self.config.flash, self.config.regular) if signals_name(one) == signals_name(settings)
        ]
        return max((budget.pretraining_steps or 0 for budget in sharing), default=0)

    def _taught_blocks(self) -> list[int]:
        """The teacher's blocks that students of any depth in the space learn from."""
        depths = {*self.config.space.num_blocks, self.family.depth(self.config.baseline)}
        teacher_blocks = self.prepared.teacher.shape.num_blocks
        return sorted({block for depth in depths for block in layer_map(depth, teacher_blocks)})

    def _data(self, stream: str) -> PretrainingData:
        return PretrainingData(
            self.prepared.corpus,
            self.prepared.tokenizer,
            self.config.corpus,
            derive_seed(self.config.seed, stream),
        )
