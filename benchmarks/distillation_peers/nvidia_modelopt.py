"""nvidia-modelopt: its distillation wrapper around the whole student and the whole teacher.

The wrapper runs both models and collects outputs of named submodules with hooks; so attention
and feature maps come without asking the models for them. (Its layer-wise mode feeds the
teacher's inputs to the student's blocks. That needs equal widths and is another procedure than
the paper's, so it is not used.)
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.loss import _Loss

from benchmarks.distillation_peers.clock import PhaseTimer, StepClock
from benchmarks.distillation_peers.contender import (
    STUDENT,
    Contender,
    train_only_stage_block,
    width_layer,
)
from benchmarks.distillation_peers.plain_losses import attention_transfer, feature_transfer, hard_loss, soft_loss
from benchmarks.distillation_peers.workload import (
    ALPHA,
    GRADIENT_CLIP,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Task,
    TensorBatch,
    Workload,
)


class NvidiaModelOpt(Contender):
    """``modelopt.torch.distill.convert`` with one criterion per pair of submodules, in a plain loop."""

    title: ClassVar[str] = "nvidia-modelopt"

    def __init__(self, workload: Workload, timer: PhaseTimer, directory: Path):
        super().__init__(workload, timer, directory)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every newer transformers
            self._distill: Any = import_module("modelopt.torch.distill")

    def run(self, task: Task, clock: StepClock) -> None:
        student = self.workload.build_student()
        train_only_stage_block(student, task)
        self.timer.watch_module(student, STUDENT)
        model = self._distill.convert(
            student,
            mode=[
                (
                    "kd_loss",
                    {
                        "teacher_model": self.teacher,
                        "criterion": _criterion(self.workload, task),
                        "loss_balancer": self._balancer(),
                    },
                )
            ],
        )
        model.train()  # gives nothing back
        self._train(model, task, clock)
        self._distill.export(model)  # takes the hooks off the teacher

    def versions(self) -> dict[str, str]:
        return {"nvidia-modelopt": version("nvidia-modelopt")}

    def _train(self, model: Any, task: Task, clock: StepClock) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        clock.start()
        for step in count():
            batch = self.workload.tensors(step)
            output = model(**batch.inputs)
            hard = None
            if task.kind == "pretraining":
                hard = hard_loss(output.prediction_logits, output.seq_relationship_logits, batch)
            loss = model.compute_kd_loss(student_loss=hard, batch=batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
            optimizer.step()
            if clock.step_done(loss.item()):
                return

    def _balancer(self) -> Any:
        """A balancer that adds the losses up; the library's own wants weights that sum to at most 1."""

        class Sum(self._distill.DistillationLossBalancer):
            def forward(self, loss_dict: dict[str, torch.Tensor]) -> torch.Tensor:
                return torch.stack(list(loss_dict.values())).sum()

        return Sum()


def _criterion(workload: Workload, task: Task) -> dict[tuple[str, str], _Loss]:
    """Losses by the names of the submodules, of student and teacher, whose outputs they compare."""
    if task.kind == "pretraining":
        return {("cls.predictions", "cls.predictions"): _SoftLoss()}
    student, teacher = (
        f"mobilebert.encoder.layer.{task.block}",
        f"bert.encoder.layer.{workload.teacher_block(task.block)}",
    )
    return {
        (student, teacher): _FeatureLoss(workload),
        (f"{student}.attention.self", f"{teacher}.attention.self"): _AttentionLoss(),
    }


class _FeatureLoss(_Loss):
    """Eq. 2 on the outputs of two blocks, with the trained width layer."""

    def __init__(self, workload: Workload):
        super().__init__()
        self.width = width_layer(workload)

    def forward(self, of_student: Any, of_teacher: Any, batch: TensorBatch) -> torch.Tensor:
        return feature_transfer(_first(of_teacher), self.width(_first(of_student)), batch.inputs["attention_mask"])


class _AttentionLoss(_Loss):
    """Eq. 1 on the outputs of two self-attention modules, which carry the probabilities as the second item."""

    def forward(self, of_student: Any, of_teacher: Any, batch: TensorBatch) -> torch.Tensor:
        return attention_transfer(of_teacher[1], of_student[1], batch.inputs["attention_mask"])


class _SoftLoss(_Loss):
    """The teacher's part of Eq. 3 on the outputs of two masked-LM heads."""

    def forward(self, of_student: Any, of_teacher: Any, batch: TensorBatch) -> torch.Tensor:
        return (1 - ALPHA) * soft_loss(of_teacher, of_student, batch)


def _first(output: Any) -> torch.Tensor:
    """A block's feature map, whether it comes alone or in a tuple."""
    return output[0] if isinstance(output, tuple) else output
