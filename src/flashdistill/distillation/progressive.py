"""Progressive knowledge transfer: stage k trains block k alone on the teacher's maps (Eq. 1-2).

The blocks before k are frozen, so their outputs for the stage's batches are computed once and
advanced in place after every stage (the rolling cache): a stage step then costs one student
block, whatever k. All stages see the same batches.

Shapes: B sequences, S tokens, h student hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from flashdistill.core.errors import DivergedError
from flashdistill.distillation.adapters import HeadAdapter, WidthAdapter
from flashdistill.distillation.layer_map import layer_map
from flashdistill.distillation.losses import attention_loss, feature_map_loss
from flashdistill.distillation.settings import LossSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models import blocks
from flashdistill.models.inputs import model_inputs

STAGE_MEMORY_BYTES = 2 * 1024**3
"""Memory for the student's feature maps before the block in training."""


class StageInputs:
    """The student's feature maps [B, S, h] before the current block, batch by batch.

    Kept in memory up to ``byte_budget``; a batch that does not fit is run through the frozen
    blocks anew each time.
    """

    def __init__(
        self, student: MobileBertForPreTraining, signals: TeacherSignals, byte_budget: int = STAGE_MEMORY_BYTES
    ):
        self._student, self._signals = student, signals
        self._free = byte_budget
        self._kept: dict[int, torch.Tensor] = {}
        self._masks: dict[int, torch.Tensor] = {}
        self.block = 0

    @torch.no_grad()
    def get(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Feature map before the current block and token mask [B, S] of batch ``step``."""
        if step not in self._kept:
            inputs = model_inputs(self._signals.stage_batch(step))
            hidden = blocks.embed(self._student, inputs)
            hidden = self._through(hidden, inputs["attention_mask"], 0, self.block)
            if hidden.nbytes > self._free:
                return hidden, inputs["attention_mask"]
            self._free -= hidden.nbytes
            self._kept[step], self._masks[step] = hidden, inputs["attention_mask"]
        return self._kept[step], self._masks[step]

    @torch.no_grad()
    def advance(self, block: int) -> None:
        """Move to the stage of ``block``; the blocks before it must not change any more."""
        for step, hidden in self._kept.items():
            self._kept[step] = self._through(hidden, self._masks[step], self.block, block)
        self.block = block

    def _through(self, hidden: torch.Tensor, token_mask: torch.Tensor, first: int, last: int) -> torch.Tensor:
        mask = blocks.additive_mask(token_mask)
        for index in range(first, last):
            hidden = blocks.run_block(self._student, index, hidden, mask)
        return hidden


@dataclass
class Stage:
    """One stage: the block in training, its adapters, and the loss of a step."""

    student: MobileBertForPreTraining
    signals: TeacherSignals
    inputs: StageInputs
    losses: LossSettings
    projection: torch.Tensor
    block: int

    def __post_init__(self) -> None:
        shape = self.signals.teacher.shape
        self.teacher_block = layer_map(blocks.num_blocks(self.student), shape.num_blocks)[self.block]
        self.adapters = nn.ModuleDict(
            {
                "width": WidthAdapter(self.projection),
                "heads": HeadAdapter(self.student.config.num_attention_heads, shape.num_heads),
            }
        )

    def parameters(self) -> list[nn.Parameter]:
        """What the stage trains: the block and its adapters."""
        return [*blocks.block(self.student, self.block).parameters(), *self.adapters.parameters()]

    def loss(self, step: int) -> torch.Tensor:
        """Weighted sum of L_MHA (Eq. 1) and L_FM (Eq. 2) on batch ``step``."""
        hidden, token_mask = self.inputs.get(step)
        teacher_features, teacher_attention = self.signals.feature_map(step, self.teacher_block)
        mask = blocks.additive_mask(token_mask)
        features, log_attention = blocks.run_block_with_attention(self.student, self.block, hidden, mask)
        if not torch.isfinite(features).all():
            raise DivergedError(f"diverged: the feature map of block {self.block + 1} is not finite at step {step}")
        loss = self.losses.feature_map * feature_map_loss(
            teacher_features, self.adapters["width"](features), token_mask
        )
        if self.losses.attention > 0:
            of_teacher, of_student = self.adapters["heads"](teacher_attention, log_attention)
            loss = loss + self.losses.attention * attention_loss(of_teacher, of_student, token_mask)
        return loss
