"""Distilling one student: the progressive stages, then pre-training distillation (Eq. 3).

Flash and regular distillation are two budgets over this one procedure.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.progress import Progress, Silent
from flashdistill.core.seeds import derive_seed
from flashdistill.distillation.head_transfer import HeadTransfer
from flashdistill.distillation.inspection import Inspection, StoppedEarlyError
from flashdistill.distillation.moments import Moments
from flashdistill.distillation.pretraining import PretrainingDistillation
from flashdistill.distillation.progressive import Stage, StageInputs
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models import blocks
from flashdistill.models.initialisation import initialise_from_teacher
from flashdistill.models.students import build_student
from flashdistill.training.checkpoint import CheckpointStore, Snapshot, restore_modules
from flashdistill.training.compute import Compute
from flashdistill.training.interrupt import StopRequest, postponed_stop
from flashdistill.training.loop import LossCurve, Phase, StepLoss, phase_steps, snapshot
from flashdistill.training.optimizers import LinearSchedule, PlateauSchedule, Schedule, build_optimizer

HEAD = "head"
PRETRAINING = "pre-training distillation"


class Position(NamedTuple):
    """How far a distillation is: phases done, and steps of the one that is running."""

    phase: int
    step: int


@dataclass
class Distilled:
    """A student after distillation, in evaluation mode, without adapters."""

    student: MobileBertForPreTraining
    curves: Mapping[str, LossCurve]


@dataclass
class Distillation:
    """The distillation of one architecture under one budget; deterministic in ``seed``.

    With an ``inspection`` the student is looked at on the way, which may end its training but
    changes nothing in it.
    """

    architecture: Architecture
    family: StudentFamily
    signals: TeacherSignals
    settings: DistillationSettings
    seed: int
    compute: Compute = field(default_factory=Compute)
    store: CheckpointStore | None = None
    progress: Progress = field(default_factory=Silent)
    task: str = "distill"
    inspection: Inspection | None = None

    def __post_init__(self) -> None:
        if not self.settings.resolved:
            raise ValueError("the step counts are not resolved; calibrate the budget first")
        self.student = build_student(self.architecture, self.family, derive_seed(self.seed, "student"))
        self.frame = initialise_from_teacher(
            self.student, self.signals.teacher, self.signals.sample, derive_seed(self.seed, "blocks")
        )
        nn.Module.to(self.student, self.compute.device)
        self.num_blocks = blocks.num_blocks(self.student)
        self.curves: dict[str, LossCurve] = {}
        self.moments = Moments(self.student, enabled=not self.settings.reset_moments)

    @property
    def phase_names(self) -> list[str]:
        """The phases in their order; the head's is there also where the budget gives it no steps."""
        return [*(f"block {index + 1}" for index in range(self.num_blocks)), HEAD, PRETRAINING]

    def run(self) -> Distilled:
        """Run or resume all phases.

        Raises:
            DivergedError: a loss or gradient is not finite.
            StoppedEarlyError: the inspection's judge has ended it.
            KeyboardInterrupt: the process was asked to stop; a checkpoint has been written.
        """
        with postponed_stop() as stop:
            for _ in self.steps(stop):
                pass
        return self.result()

    def result(self) -> Distilled:
        """The student as it is now."""
        return Distilled(self.student.requires_grad_(False).eval(), self.curves)

    def steps(self, stop: StopRequest | None = None) -> Generator[Position, None, None]:
        """`run` step by step: gives the position after each step.

        Closing the generator, or throwing KeyboardInterrupt into it, ends the distillation; in
        the second case a checkpoint is written.
        """
        resume = self.store.load_latest() if self.store else None
        first = self._continue_from(resume) if resume else 0
        self.progress.start(self.task, self.settings.total_steps(self.num_blocks))
        spent = min(first, self.num_blocks) * (self.settings.steps_per_block or 0)
        spent += self.settings.head_steps(self.num_blocks) if first > self.num_blocks else 0
        self.progress.advance(self.task, spent)  # the resumed phase adds its own
        inputs = StageInputs(self.student, self.signals)
        for number in range(first, len(self.phase_names)):
            if number == self.num_blocks + 1:
                inputs = None  # what the stages kept is not needed any more
            if number > first:
                self._save_before(number)
            if self._steps_of(number) == 0:
                continue
            phase, modules = self._phase_of(number, inputs)
            begun = resume if number == first and resume and resume.position["optimizer"] else None
            yield from self._train(number, phase, modules, begun, stop)
        self.progress.finish(self.task)

    def stage(self, index: int, inputs: StageInputs) -> tuple[Stage, Phase]:
        """The stage of block ``index`` (from 0) and its training phase."""
        settings = self.settings
        stage = Stage(self.student, self.signals, inputs, settings, self.frame.features, index)
        rate = settings.block_learning_rate or settings.learning_rate
        schedule = self._block_schedule(settings.steps_per_block or 0, rate)
        optimizer = build_optimizer(
            settings.optimizer,
            stage.trained(),
            rate,
            settings.weight_decay,
            stage.slowed(),
            settings.earlier_block_rate,
        )
        return stage, self._phase(self.phase_names[index], stage, stage.trained() + stage.slowed(), optimizer, schedule)

    def head(self, inputs: StageInputs) -> Phase:
        """The fit of the masked-LM head behind the last block; it sees the stages' batches once a block."""
        settings = self.settings
        transfer = HeadTransfer(self.student, self.signals, inputs, settings, self.frame)
        rate = settings.block_learning_rate or settings.learning_rate
        optimizer = build_optimizer(settings.optimizer, transfer.trained(), rate, settings.weight_decay)
        schedule = self._block_schedule(settings.head_steps(self.num_blocks), rate)
        return self._phase(HEAD, transfer, transfer.trained(), optimizer, schedule)

    def pretraining(self) -> Phase:
        """The phase of Eq. 3: all of the student is trained."""
        settings = self.settings
        loss = PretrainingDistillation(self.student, self.signals, settings, self.compute.compile)
        warmup = settings.warmup_steps if settings.warmup_steps is not None else self._pretraining_steps // 10
        optimizer = build_optimizer(settings.optimizer, loss.trained(), settings.learning_rate, settings.weight_decay)
        schedule = LinearSchedule(self._pretraining_steps, settings.learning_rate, warmup)
        return self._phase(PRETRAINING, loss, loss.trained(), optimizer, schedule)

    def _steps_of(self, number: int) -> int:
        if number < self.num_blocks:
            return self.settings.steps_per_block or 0
        return self.settings.head_steps(self.num_blocks) if number == self.num_blocks else self._pretraining_steps

    @property
    def _pretraining_steps(self) -> int:
        return self.settings.pretraining_steps or 0

    def _phase_of(self, number: int, inputs: StageInputs | None) -> tuple[Phase, dict[str, nn.Module]]:
        """A phase by its place, and what its checkpoints must hold."""
        modules: dict[str, nn.Module] = {"student": self.student}
        if inputs is None:
            return self.pretraining(), modules
        if number == self.num_blocks:
            return self.head(inputs), modules
        stage, phase = self.stage(number, inputs)
        return phase, modules | {"adapters": stage.adapters}

    def _train(
        self,
        number: int,
        phase: Phase,
        modules: Mapping[str, nn.Module],
        resume: Snapshot | None,
        stop: StopRequest | None,
    ) -> Generator[Position, None, None]:
        self.student.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        self.moments.give(phase.optimizer)
        running = phase_steps(phase, modules, self.compute, self.store, resume, self.progress, self._carried(), stop)
        looks = self.inspection.steps(self._pretraining_steps) if self.inspection and phase.name == PRETRAINING else {}
        # A checkpoint may have been written at the very step, and the process killed before the look.
        self._look(looks.get(resume.position["step"]) if resume else None)
        while True:
            try:
                step = next(running)
            except StopIteration as finished:
                self.curves[phase.name] = finished.value
                break
            self._look(looks.get(step))
            try:
                yield Position(number, step)
            except KeyboardInterrupt as request:
                running.throw(request)
        self.moments.take(phase.optimizer)

    def _look(self, share: float | None) -> None:
        """Raises StoppedEarlyError where the student is looked at and found hopeless."""
        if self.inspection is None or share is None:
            return
        try:
            self.inspection.look(self.student, share, self.compute)
        except StoppedEarlyError:
            self.progress.finish(self.task)
            raise

    def _continue_from(self, resume: Snapshot) -> int:
        """Take over a checkpoint's weights, moments and curves; returns the number of its phase."""
        restore_modules({"student": self.student}, resume.tensors)
        self.moments.restore(resume.tensors)
        for name, points in resume.position["finished"].items():
            self.curves[name] = LossCurve([(int(step), float(loss)) for step, loss in points])
        return self.phase_names.index(resume.position["phase"])

    def _save_before(self, number: int) -> None:
        if self.store and self.compute.is_main:
            name = self.phase_names[number]
            self.store.save(snapshot(name, {"student": self.student}, 0, carried=self._carried()))

    def _carried(self) -> Snapshot:
        """What earlier phases leave to later ones."""
        curves = {name: curve.points for name, curve in self.curves.items()}
        return Snapshot(self.moments.tensors(), {"finished": curves})

    def _phase(
        self,
        name: str,
        loss: StepLoss,
        parameters: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
    ) -> Phase:
        return Phase(name, loss, parameters, optimizer, schedule, self.settings.gradient_clip, self.task)

    def _block_schedule(self, steps: int, peak: float) -> Schedule:
        if self.settings.block_schedule == "plateau":
            return PlateauSchedule(steps, peak)
        return LinearSchedule(steps, peak, steps // 10)
