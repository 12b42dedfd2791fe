"""What a contender is: a way of doing the steps of a distillation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from benchmarks.distillation_peers.clock import PhaseTimer, StepClock
from benchmarks.distillation_peers.plain_losses import attention_transfer, feature_transfer, pretraining_loss
from benchmarks.distillation_peers.workload import PRETRAINING, Task, TensorBatch, Workload
from flashdistill.models import blocks

TEACHER, STUDENT = "teacher", "student"


class Contender(ABC):
    """Trains a student on demand, one task at a time, in a process of its own.

    Args:
        workload: what to train.
        timer: told what a step spends its time on.
        directory: an empty directory for whatever it has to write.

    Raises:
        Exception: of any kind, from the constructor or from `run`, where a library does not run
            here; its message goes into the report.
    """

    title: ClassVar[str]
    """As the tables call it."""

    def __init__(self, workload: Workload, timer: PhaseTimer, directory: Path):
        self.workload, self.timer, self.directory = workload, timer, directory

    @cached_property
    def teacher(self) -> Any:
        """The workload's teacher, its forward passes timed."""
        teacher = self.workload.build_teacher()
        self.timer.watch_module(teacher, TEACHER)
        return teacher

    @abstractmethod
    def run(self, task: Task, clock: StepClock) -> None:
        """Train a new student on the task: start the clock, then report every step to it until it stops."""

    def shares(self) -> dict[Task, float]:
        """The tasks of a whole distillation, and what part of the steps of its kind each stands for."""
        return {**self.workload.stage_shares(), PRETRAINING: 1.0}

    def borrowed(self) -> list[Task]:
        """Tasks whose steps are the same as the later candidates' of this package, and are measured there."""
        return []

    def versions(self) -> dict[str, str]:
        """Of the library that does the work."""
        return {}


class PlainPair(nn.Module):
    """A student with the width layer, and the losses on both models' whole outputs.

    Its parameters are the student's and the width layer's; the teacher is passed in with its
    outputs. Only what the task trains requires a gradient.
    """

    def __init__(self, workload: Workload, task: Task, timer: PhaseTimer):
        super().__init__()
        self.task = task
        self.teacher_block = workload.teacher_block(task.block)
        self.student = workload.build_student()
        self.width = width_layer(workload) if task.kind == "stage" else None
        train_only_stage_block(self.student, task)
        timer.watch_module(self.student, STUDENT)

    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, **inputs: torch.Tensor) -> Any:
        """The student's whole output; the maps of all blocks in a stage."""
        return self.student(**inputs, **maps_arguments(self.task))

    def loss(self, of_teacher: Any, of_student: Any, batch: TensorBatch) -> torch.Tensor:
        """Eq. 1 and 2 in a stage, else Eq. 3."""
        if self.width is None:
            return pretraining_loss(
                of_teacher.logits, of_student.prediction_logits, of_student.seq_relationship_logits, batch
            )
        mask, block = batch.inputs["attention_mask"], self.task.block
        attention = attention_transfer(of_teacher.attentions[self.teacher_block], of_student.attentions[block], mask)
        features = self.width(of_student.hidden_states[block + 1])
        return attention + feature_transfer(of_teacher.hidden_states[self.teacher_block + 1], features, mask)


def maps_arguments(task: Task) -> dict[str, bool]:
    """Arguments with which both models give what the task's loss needs: in a stage the maps of all blocks."""
    needed = task.kind == "stage"
    return {"output_hidden_states": needed, "output_attentions": needed}


def train_only_stage_block(student: MobileBertForPreTraining, task: Task) -> None:
    """In a stage, freeze all of the student but the block in training."""
    if task.kind == "stage":
        student.requires_grad_(False)
        blocks.block(student, task.block).requires_grad_(True)


def width_layer(workload: Workload) -> nn.Linear:
    """The trained dense layer from the student's width to the teacher's, where all contenders begin."""
    projection = workload.width_projection()
    layer = nn.Linear(projection.shape[1], projection.shape[0])
    with torch.no_grad():
        layer.weight.copy_(projection)
        layer.bias.zero_()
    return layer
