"""TextBrewer's `GeneralDistiller`, with the paper's attention loss registered as its documentation shows.

Its own attention losses apply a softmax to what is a distribution already.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmarks.distillation_peers.clock import PhaseTimer, StepClock
from benchmarks.distillation_peers.contender import (
    STUDENT,
    Contender,
    maps_arguments,
    train_only_stage_block,
    width_layer,
)
from benchmarks.distillation_peers.plain_losses import attention_transfer, hard_loss
from benchmarks.distillation_peers.workload import (
    ALPHA,
    GRADIENT_CLIP,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Task,
    Workload,
)

_STEPS = 1_000_000
"""More than any run takes: the end of the batches stops it."""

_ATTENTION_LOSS = "attention_kl"


class TextBrewer(Contender):
    """The library's loop, hidden-state loss, soft loss and projection."""

    title: ClassVar[str] = "TextBrewer"

    def __init__(self, workload: Workload, timer: PhaseTimer, directory: Path):
        super().__init__(workload, timer, directory)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its source compares strings with `is`
            self._library: Any = import_module("textbrewer")
            presets: Any = import_module("textbrewer.presets")
        presets.MATCH_LOSS_MAP[_ATTENTION_LOSS] = _attention_loss

    def run(self, task: Task, clock: StepClock) -> None:
        student = self.workload.build_student()
        train_only_stage_block(student, task)
        self.timer.watch_module(student, STUDENT)
        batches = _Batches(self.workload, clock)
        distiller = self._distiller(task, student, batches)
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        with distiller, contextlib.suppress(_EnoughError):
            distiller.train(optimizer, batches, num_steps=_STEPS, max_grad_norm=GRADIENT_CLIP, **maps_arguments(task))

    def versions(self) -> dict[str, str]:
        return {"textbrewer": version("textbrewer")}

    def _distill_config(self, task: Task) -> Any:
        matches: list[dict[str, Any]] | None = None
        if task.kind == "stage":
            common = {"weight": 1, "layer_T": 0, "layer_S": 0}
            sizes = [self.workload.student_architecture.hidden_size, self.workload.teacher_hidden_size]
            matches = [
                {**common, "feature": "hidden", "loss": "hidden_mse", "proj": ["linear", *sizes]},
                {**common, "feature": "attention", "loss": _ATTENTION_LOSS},
            ]
        return self._library.DistillationConfig(
            temperature=1,
            hard_label_weight=1,
            kd_loss_type="ce",
            kd_loss_weight=1 - ALPHA,
            intermediate_matches=matches,
        )

    def _distiller(self, task: Task, student: Any, batches: _Batches) -> Any:
        in_stage = task.kind == "stage"
        teacher_block = self.workload.teacher_block(task.block)
        distiller = _recording(self._library.GeneralDistiller, batches)(
            self._library.TrainingConfig(device="cpu", output_dir=str(self.directory), ckpt_steps=_STEPS),
            self._distill_config(task),
            self.teacher,
            student,
            _stage_adaptor(teacher_block, batches) if in_stage else _teacher_adaptor(batches),
            _stage_adaptor(task.block, batches) if in_stage else _student_adaptor(batches),
        )
        for layer in distiller.projs:
            if layer is not None:  # begin where the other contenders begin
                layer.load_state_dict(width_layer(self.workload).state_dict())
        return distiller


class _EnoughError(Exception):
    """Ends the library's loop, which knows no other way to stop early."""


class _Batches:
    """The workload's batches as the library reads them; tells the clock of every step.

    The library asks for the next batch when it is through with a step.
    """

    def __init__(self, workload: Workload, clock: StepClock):
        self._workload, self._clock = workload, clock
        self.current = workload.tensors(0)
        self.loss = float("nan")

    def __len__(self) -> int:
        return _STEPS

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self._clock.start()
        for step in range(_STEPS):
            self.current = self._workload.tensors(step)
            yield self.current.inputs
            if self._clock.step_done(self.loss):
                raise _EnoughError


def _recording(distiller_class: Any, batches: _Batches) -> Any:
    """The distiller, telling the loss of every step."""

    class Recording(distiller_class):
        def train_on_batch(self, batch: Any, args: Any) -> Any:
            loss, parts = super().train_on_batch(batch, args)
            batches.loss = float(loss.detach())
            return loss, parts

    return Recording


def _stage_adaptor(block: int, batches: _Batches) -> Callable[[Any, Any], dict[str, Any]]:
    """Tells the library the maps of one block."""

    def adaptor(_: Any, output: Any) -> dict[str, Any]:
        return {
            "hidden": [output.hidden_states[block + 1]],
            "attention": [output.attentions[block]],
            "inputs_mask": batches.current.inputs["attention_mask"],
        }

    return adaptor


def _teacher_adaptor(batches: _Batches) -> Callable[[Any, Any], dict[str, Any]]:
    """Tells the library the teacher's logits and which of them count."""
    return lambda _, output: {"logits": output.logits, "logits_mask": batches.current.labels >= 0}


def _student_adaptor(batches: _Batches) -> Callable[[Any, Any], dict[str, Any]]:
    """Tells the library the student's logits and its losses on the true tokens."""

    def adaptor(_: Any, output: Any) -> dict[str, Any]:
        hard = hard_loss(output.prediction_logits, output.seq_relationship_logits, batches.current)
        return {"logits": output.prediction_logits, "logits_mask": batches.current.labels >= 0, "losses": hard}

    return adaptor


def _attention_loss(of_student: torch.Tensor, of_teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Eq. 1 in the library's order of arguments."""
    return attention_transfer(of_teacher, of_student, mask)
