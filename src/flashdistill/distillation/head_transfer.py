"""Head transfer: the student's masked-LM head learns to feed its decoder what the teacher's does.

The student's decoder is the teacher's, resampled along orthogonal directions; so a squared
difference of logits over the whole vocabulary is a weighted squared difference of the decoder's
few inputs, and costs nothing that grows with the vocabulary. After the stages the student's
features are close to the teacher's in another frame, and this small fit makes them tell words.

Shapes: M masked tokens, V vocabulary, h student hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from flashdistill.distillation.progressive import StageInputs
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models.initialisation import Frame


@dataclass
class HeadTransfer:
    """The stage behind the last block. ``inputs`` must stand behind the last block."""

    student: MobileBertForPreTraining
    signals: TeacherSignals
    inputs: StageInputs
    frame: Frame
    num_batches: int

    def __post_init__(self) -> None:
        head: Any = self.student.cls.predictions
        self._transform: nn.Module = head.transform
        # Columns of the resampled decoder are orthogonal, so their squared norms are all that counts.
        matrix = self.signals.teacher.decoder_matrix @ self.frame.decoder
        self._weights = matrix.square().sum(0) / len(matrix)

    def parameters(self) -> list[nn.Parameter]:
        """What the stage trains: the head's dense layer and norm."""
        return list(self._transform.parameters())

    def loss(self, step: int) -> torch.Tensor:
        """Mean squared difference of the logits, over masked tokens and vocabulary."""
        step %= self.num_batches
        hidden, _ = self.inputs.get(step)
        positions = torch.from_numpy(self.signals.stage_batch(step).masked_positions)
        wanted = self.signals.decoder_inputs(step) @ self.frame.decoder
        given = self._transform(hidden.flatten(0, 1).index_select(0, positions)) * self.frame.decoder_scale
        return ((given - wanted).square() * self._weights).sum(-1).mean()
