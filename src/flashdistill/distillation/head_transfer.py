"""Head transfer: the student's masked-LM head learns to feed its decoder what the teacher's does.

The student's decoder is the teacher's, resampled along orthogonal directions; so a squared
difference of logits over the whole vocabulary is a weighted squared difference of the decoder's
few inputs, and costs nothing that grows with the vocabulary. After the stages the student's
features are close to the teacher's in another frame, and this small fit makes them tell words.

Shapes: M masked tokens, V vocabulary, h student hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from flashdistill.distillation.progressive import StageInputs
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models import blocks
from flashdistill.models.initialisation import Frame
from flashdistill.training.compute import WHOLE, Share
from flashdistill.training.loop import StepLoss


class HeadTransfer(StepLoss):
    """The loss of the stage behind the last block; it sees the first stage's batches once a block."""

    def __init__(
        self,
        student: MobileBertForPreTraining,
        signals: TeacherSignals,
        inputs: StageInputs,
        settings: DistillationSettings,
        frame: Frame,
    ):
        super().__init__()
        head: Any = student.cls.predictions
        self.student, self.signals, self.inputs = student, signals, inputs
        self.batch_size = settings.batch_size
        self.num_batches = settings.steps_per_block or 1
        self.transform: nn.Module = head.transform
        self.decoder = frame.decoder.to(signals.device)
        self.scale = frame.decoder_scale
        # Columns of the resampled decoder are orthogonal, so their squared norms are all that counts.
        matrix = signals.teacher.decoder_matrix @ self.decoder
        self.weights = matrix.square().sum(0) / len(matrix)

    def trained(self) -> list[nn.Parameter]:
        """What the stage trains: the head's dense layer and norm."""
        return list(self.transform.parameters())

    def sizes(self, step: int, share: Share) -> tuple[float]:
        """Masked tokens."""
        return (float(len(self.signals.stage_batch(step % self.num_batches, share).masked_positions)),)

    def forward(self, step: int, share: Share = WHOLE, totals: Sequence[float] = ()) -> torch.Tensor:
        """Mean squared difference of the logits, over masked tokens and vocabulary."""
        index = step % self.num_batches
        hidden, _ = self.inputs.get(index, share, blocks.num_blocks(self.student))
        positions = self.signals.stage_batch(index, share).masked_positions
        wanted = self.signals.decoder_inputs(index, share) @ self.decoder
        given = self.transform(hidden.flatten(0, 1).index_select(0, positions)).float() * self.scale
        return ((given - wanted).square() * self.weights).sum() / totals[0]
