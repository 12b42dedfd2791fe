"""Distilling one student: the progressive stages, then pre-training distillation (Eq. 3).

Flash and regular distillation are two budgets over this one procedure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.progress import Progress, Silent
from flashdistill.core.seeds import derive_seed
from flashdistill.distillation.head_transfer import HeadTransfer
from flashdistill.distillation.losses import mlm_distillation_loss
from flashdistill.distillation.progressive import Stage, StageInputs
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models import blocks
from flashdistill.models.initialisation import initialise_from_teacher
from flashdistill.models.inputs import model_inputs
from flashdistill.models.students import build_student
from flashdistill.training.checkpoint import CheckpointStore, Snapshot, restore_modules
from flashdistill.training.loop import LossCurve, Phase, run_phase, snapshot
from flashdistill.training.optimizers import Schedule, build_optimizer

HEAD = "head"
PRETRAINING = "pre-training distillation"


@dataclass
class Distilled:
    """A student after distillation, in evaluation mode, without adapters."""

    student: MobileBertForPreTraining
    curves: Mapping[str, LossCurve]


@dataclass
class Distillation:
    """The distillation of one architecture under one budget; deterministic in ``seed``."""

    architecture: Architecture
    family: StudentFamily
    signals: TeacherSignals
    settings: DistillationSettings
    seed: int
    store: CheckpointStore | None = None
    progress: Progress = field(default_factory=Silent)
    task: str = "distill"

    def __post_init__(self) -> None:
        if not self.settings.resolved:
            raise ValueError("the step counts are not resolved; calibrate the budget first")
        self.student = build_student(self.architecture, self.family, derive_seed(self.seed, "student"))
        self.frame = initialise_from_teacher(
            self.student, self.signals.teacher, self.signals.sample, derive_seed(self.seed, "blocks")
        )
        self.curves: dict[str, LossCurve] = {}

    def run(self) -> Distilled:
        """Run or resume all phases.

        Raises:
            DivergedError: a loss, feature map or gradient is not finite.
        """
        num_blocks = blocks.num_blocks(self.student)
        steps_per_block, _ = self._steps()
        resume = self.store.load_latest() if self.store else None
        phases = [*(self._stage_name(index) for index in range(num_blocks)), HEAD, PRETRAINING]
        first = phases.index(resume.position["phase"]) if resume else 0
        if resume:
            restore_modules({"student": self.student}, resume.tensors)
        self.progress.start(self.task, self.settings.total_steps(num_blocks))
        self.progress.advance(self.task, min(first, num_blocks) * steps_per_block)  # the resumed phase adds its own
        inputs = StageInputs(self.student, self.signals)
        for index in range(first, num_blocks + 1):
            if steps_per_block == 0:
                break
            inputs.advance(index)
            begun = resume if index == first else None
            self._run_stage(index, inputs, begun) if index < num_blocks else self._run_head(inputs, begun)
            if self.store:
                self.store.save(snapshot(phases[index + 1], {"student": self.student}, 0))
        del inputs
        self._run_pretraining(resume if first == num_blocks + 1 else None)
        self.progress.finish(self.task)
        return Distilled(self.student.eval(), self.curves)

    def stage(self, index: int, inputs: StageInputs) -> tuple[Stage, Phase]:
        """The stage of block ``index`` (from 0) and its training phase."""
        stage = Stage(self.student, self.signals, inputs, self.settings.losses, self.frame.features, index)
        rate = self.settings.block_learning_rate or self.settings.learning_rate
        return stage, self._phase(self._stage_name(index), stage.loss, stage.parameters(), self._steps()[0], rate)

    def head(self, inputs: StageInputs) -> Phase:
        """The fit of the masked-LM head behind the last block; it sees the stages' batches once a block."""
        transfer = HeadTransfer(self.student, self.signals, inputs, self.frame, self._steps()[0])
        rate = self.settings.block_learning_rate or self.settings.learning_rate
        steps = self.settings.head_steps(blocks.num_blocks(self.student))
        return self._phase(HEAD, transfer.loss, transfer.parameters(), steps, rate)

    def pretraining(self) -> Phase:
        """The phase of Eq. 3: all of the student is trained."""
        parameters = list(self.student.parameters())
        return self._phase(
            PRETRAINING, self.pretraining_loss, parameters, self._steps()[1], self.settings.learning_rate
        )

    def pretraining_loss(self, step: int) -> torch.Tensor:
        """Eq. 3 on pre-training batch ``step``: mixed masked-LM loss and next-sentence loss."""
        losses = self.settings.losses
        batch = self.signals.pretraining_batch(step)
        hidden = blocks.last_hidden(self.student, model_inputs(batch))
        positions, labels = torch.from_numpy(batch.masked_positions), torch.from_numpy(batch.masked_labels)
        student_logits = blocks.mlm_logits(self.student, hidden, positions)
        teacher_logits = self.signals.mlm_logits(step, batch) if losses.alpha < 1 else student_logits
        loss = mlm_distillation_loss(student_logits, teacher_logits, labels, losses.alpha, losses.temperature)
        if losses.nsp > 0:
            next_sentence = torch.from_numpy(batch.next_sentence_labels)
            loss = loss + losses.nsp * F.cross_entropy(blocks.nsp_logits(self.student, hidden), next_sentence)
        return loss

    def _run_stage(self, index: int, inputs: StageInputs, resume: Snapshot | None) -> None:
        stage, phase = self.stage(index, inputs)
        self._train(phase, {"student": self.student, "adapters": stage.adapters}, resume)

    def _run_head(self, inputs: StageInputs, resume: Snapshot | None) -> None:
        self._train(self.head(inputs), {"student": self.student}, resume)

    def _run_pretraining(self, resume: Snapshot | None) -> None:
        self._train(self.pretraining(), {"student": self.student}, resume)

    def _train(self, phase: Phase, modules: dict[str, nn.Module], resume: Snapshot | None) -> None:
        inside = resume if resume and resume.position["optimizer"] else None
        self.student.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        self.curves[phase.name] = run_phase(phase, modules, self.store, inside, self.progress)

    def _phase(self, name: str, loss, parameters: list[nn.Parameter], steps: int, rate: float) -> Phase:
        settings = self.settings
        warmup = settings.warmup_steps if settings.warmup_steps is not None and name == PRETRAINING else steps // 10
        optimizer = build_optimizer(settings.optimizer, parameters, rate, settings.weight_decay)
        schedule = Schedule(steps, rate, warmup)
        return Phase(name, loss, parameters, optimizer, schedule, settings.gradient_clip, self.task)

    def _steps(self) -> tuple[int, int]:
        return self.settings.steps_per_block or 0, self.settings.pretraining_steps or 0

    @staticmethod
    def _stage_name(index: int) -> str:
        return f"block {index + 1}"
