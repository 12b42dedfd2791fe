"""The floor: what no way of training this student can do without.

A stage step is the forward and the backward pass of the block in training; a pre-training step
is the student's forward and backward pass with the vocabulary's logits at masked tokens. No
teacher, no loss, no optimiser, no data.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from transformers import MobileBertForPreTraining

from benchmarks.distillation_peers.clock import StepClock
from benchmarks.distillation_peers.contender import STUDENT, Contender, train_only_stage_block
from benchmarks.distillation_peers.workload import Task
from flashdistill.models import blocks
from flashdistill.models.inputs import model_inputs


class Floor(Contender):
    """Student passes alone; gradients of the outputs are given."""

    title: ClassVar[str] = "floor"

    def run(self, task: Task, clock: StepClock) -> None:
        student = self.workload.build_student()
        train_only_stage_block(student, task)
        batch = self.workload.batch(0)
        inputs, positions = model_inputs(batch), torch.from_numpy(batch.masked_positions)
        with torch.no_grad():
            hidden, mask = blocks.embed(student, inputs), blocks.additive_mask(inputs["attention_mask"])
        gradient: torch.Tensor | None = None
        clock.start()
        while True:
            student.zero_grad(set_to_none=True)
            with self.timer.phase(STUDENT):
                if task.kind == "stage":
                    output = blocks.run_block(student, task.block, hidden, mask)
                else:
                    output = self._logits(student, inputs, positions)
            gradient = torch.full_like(output, 1e-3) if gradient is None else gradient
            output.backward(gradient)
            if clock.step_done(0.0):
                return

    @staticmethod
    def _logits(
        student: MobileBertForPreTraining, inputs: dict[str, torch.Tensor], positions: torch.Tensor
    ) -> torch.Tensor:
        """[M, V] at the masked tokens."""
        return blocks.mlm_logits(student, student.mobilebert(**inputs)[0], positions)
