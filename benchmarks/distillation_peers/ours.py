"""This package's own engine: its losses, its signals, its optimiser and its training loop.

A search distils many candidates on the same batches. The first one makes the teacher answer; the
later ones read the answers from disk, where there is room for them.
"""

from __future__ import annotations

import dataclasses
import tempfile
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, cast

from benchmarks.distillation_peers.clock import StepClock
from benchmarks.distillation_peers.contender import STUDENT, TEACHER, Contender
from benchmarks.distillation_peers.workload import (
    ALPHA,
    GRADIENT_CLIP,
    LEARNING_RATE,
    PRETRAINING,
    WEIGHT_DECAY,
    Task,
    Workload,
)
from flashdistill.data.batch import Batch
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.distillation.distill import Distillation
from flashdistill.distillation.progressive import StageInputs
from flashdistill.distillation.settings import DistillationSettings, LossSettings, SignalSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models.initialisation import TeacherSample
from flashdistill.models.teacher import Teacher
from flashdistill.training.compute import WHOLE
from flashdistill.training.loop import Phase, phase_steps

_PRETRAINING_BATCHES = 4

_HEAD = Task("head")

_LOSSES = LossSettings.model_validate({"alpha": ALPHA})
"""Eq. 1 to 3 with weights of one, as the other contenders have them."""


class _WorkloadData:
    """The workload's batches with the interface of `PretrainingData`."""

    identity = "benchmark"

    def __init__(self, workload: Workload):
        self._workload = workload

    def batch(self, step: int, batch_size: int, share: int = 0, shares: int = 1) -> Batch:
        assert (batch_size, share, shares) == (self._workload.batch_size, 0, 1)
        return self._workload.batch(step)


class _Engine(Contender):
    """What the first and the later candidates have in common."""

    precision: ClassVar[Literal["half", "single"]] = "half"
    """In which the teacher's answers are kept."""

    stage_batches: ClassVar[int] = 8
    """Distinct ones; all stages see the same, each of them once."""

    disk_gib: ClassVar[float] = 64.0
    """Room for them and for hidden states: enough."""

    memory_gib: ClassVar[float] = 0.0
    """Room for hidden states in memory: none, so that a whole distillation needs no more memory than a few steps."""

    _sample: TeacherSample | None = None

    def shares(self) -> dict[Task, float]:
        return {**self.workload.stage_shares(), _HEAD: 1.0, PRETRAINING: 1.0}

    def run(self, task: Task, clock: StepClock) -> None:
        signals = self.signals(task)
        self.prepare(signals, task)
        distillation = self._distillation(signals)
        phase = self._phase(distillation, task)
        distillation.student.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        losses: list[float] = []
        self.timer.watch_module(phase.loss, STUDENT)
        phase.loss.register_forward_hook(lambda module, arguments, loss: losses.append(float(loss.detach())))
        clock.start()
        for _ in phase_steps(phase, {"student": distillation.student}, distillation.compute):
            if clock.step_done(losses[-1]):
                return

    @abstractmethod
    def signals(self, task: Task) -> TeacherSignals:
        """The teacher's answers as they are when the task begins."""

    def prepare(self, signals: TeacherSignals, task: Task) -> None:
        """Do what lies behind a search when it comes to the task."""

    @cached_property
    def kept_signals(self) -> TeacherSignals:
        """Signals that earlier visits, standing for earlier candidates, have written to disk."""
        return self.new_signals(self.directory / "signals")

    def new_signals(self, directory: Path) -> TeacherSignals:
        data = cast(PretrainingData, _WorkloadData(self.workload))
        taught = [self.workload.teacher_block(block) for block in range(self.workload.student_blocks)]
        settings = SignalSettings(
            disk_gib=self.disk_gib, memory_gib=self.memory_gib, precision=self.precision, top_k=None
        )
        signals = TeacherSignals(
            self._teacher, data, data, self.workload.batch_size, settings, _LOSSES, directory, taught_blocks=taught
        )
        for answer in ("stage", "decoder_inputs", "mlm_target"):
            self.timer.watch_method(signals, answer, TEACHER)
        return signals

    @cached_property
    def _teacher(self) -> Teacher:
        return Teacher(self.workload.build_teacher())

    def _distillation(self, signals: TeacherSignals) -> Distillation:
        """A distillation whose student begins where the other contenders' begin."""
        if self._sample is None:
            self._sample = signals.sample
        signals.sample = self._sample  # for all signals the same, and seconds to make
        settings = DistillationSettings.model_validate(
            {
                "steps_per_block": self.stage_batches,
                "pretraining_steps": _PRETRAINING_BATCHES,
                "batch_size": self.workload.batch_size,
                "optimizer": "adamw",
                "learning_rate": LEARNING_RATE,
                "weight_decay": WEIGHT_DECAY,
                "gradient_clip": GRADIENT_CLIP,
                "losses": _LOSSES,
            }
        )
        workload = self.workload
        distillation = Distillation(workload.student_architecture, workload.family, signals, settings, seed=0)
        distillation.student.load_state_dict(workload.build_student().state_dict())
        distillation.frame = dataclasses.replace(distillation.frame, features=workload.width_projection())
        return distillation

    def _phase(self, distillation: Distillation, task: Task) -> Phase:
        """The task's phase, its inputs as the stage before leaves them."""
        if task.kind == "pretraining":
            return distillation.pretraining()
        inputs = StageInputs(distillation.student, distillation.signals)
        # Most steps of the head's phase find the last block's outputs in place.
        reached = self.workload.student_blocks if task.kind == "head" else task.block - 1
        for index in range(self.stage_batches if reached >= 0 else 0):
            inputs.get(index, WHOLE, reached)
        return distillation.head(inputs) if task.kind == "head" else distillation.stage(task.block, inputs)[1]


class LaterCandidate(_Engine):
    """The second and every later candidate: all answers are on disk."""

    title: ClassVar[str] = "FlashDistill"

    def signals(self, task: Task) -> TeacherSignals:
        return self.kept_signals

    def prepare(self, signals: TeacherSignals, task: Task) -> None:
        if task.kind == "pretraining":
            for index in range(_PRETRAINING_BATCHES):
                signals.mlm_target(index)
        else:
            for index in range(self.stage_batches):
                signals.stage(index, WHOLE, self.workload.teacher_block(task.block))


class FirstCandidate(LaterCandidate):
    """The first candidate: the first stage writes all blocks' answers, pre-training steps write theirs."""

    title: ClassVar[str] = "FlashDistill, 1st candidate"

    def shares(self) -> dict[Task, float]:
        """The first stage stands for itself alone, since only it computes."""
        shares, depth = super().shares(), self.workload.student_blocks
        first, *later = self.workload.stages()
        for task in later:
            shares[task] = (depth - 1) / depth / len(later)
        return shares | {first: 1.0 / depth if later else 1.0}

    def borrowed(self) -> list[Task]:
        """Steps that find the answers on disk, like those of the later candidates."""
        return [task for task in self.shares() if not self._computes(task)]

    def signals(self, task: Task) -> TeacherSignals:
        if self._computes(task):
            return self.new_signals(Path(tempfile.mkdtemp(dir=self.directory)))
        return super().signals(task)

    def prepare(self, signals: TeacherSignals, task: Task) -> None:
        if not self._computes(task):
            super().prepare(signals, task)

    @staticmethod
    def _computes(task: Task) -> bool:
        return task == PRETRAINING or task == Task("stage", 0)


class UncachedCandidate(_Engine):
    """Every candidate where no answer fits on disk: hidden states before the block are kept in memory."""

    title: ClassVar[str] = "FlashDistill, no disk"
    disk_gib: ClassVar[float] = 0.0
    memory_gib: ClassVar[float] = 64.0
    stage_batches: ClassVar[int] = 4

    def signals(self, task: Task) -> TeacherSignals:
        return self.new_signals(self.directory / "unused")

    def prepare(self, signals: TeacherSignals, task: Task) -> None:
        """Bring the teacher's hidden states where the stage before leaves them."""
        before = self.workload.student_blocks - 1 if task.kind == "head" else task.block - 1
        if task.kind != "pretraining" and before >= 0:
            for index in range(self.stage_batches):
                signals.stage(index, WHOLE, self.workload.teacher_block(before))
