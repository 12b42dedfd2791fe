"""Pre-training distillation (Eq. 3): the whole student learns words, the teacher's words, and next sentences.

Shapes: B sequences, S tokens, h student hidden size, M masked tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import MobileBertForPreTraining

from flashdistill.distillation.losses import masked_lm_loss
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models import blocks
from flashdistill.training.compute import WHOLE, Share
from flashdistill.training.loop import StepLoss


class PretrainingDistillation(StepLoss):
    """The loss of Eq. 3; logits are computed at masked tokens only."""

    def __init__(
        self,
        student: MobileBertForPreTraining,
        signals: TeacherSignals,
        settings: DistillationSettings,
        compiled: bool = False,
    ):
        super().__init__()
        self.student, self.signals, self.settings = student, signals, settings
        self.batch_size = settings.batch_size
        body: Any = student.mobilebert
        # A function, so that its weights are not in the module tree twice.
        self._body: Callable[..., Any] = torch.compile(body.forward) if compiled else body.forward

    def trained(self) -> list[nn.Parameter]:
        """Every weight that the loss reaches: without next-sentence prediction not its head."""
        unused: set[nn.Parameter] = set()
        if not self.settings.losses.nsp:
            unused = {*blocks.pooler(self.student).parameters(), *self.student.cls.seq_relationship.parameters()}
        return [parameter for parameter in self.student.parameters() if parameter not in unused]

    def sizes(self, step: int, share: Share) -> tuple[float, float]:
        """Masked tokens and sequences."""
        batch = self.signals.pretraining_batch(step, share)
        return float(len(batch.masked_positions)), float(len(batch.next_sentence_labels))

    def forward(self, step: int, share: Share = WHOLE, totals: Sequence[float] = ()) -> torch.Tensor:
        """α·L_MLM + (1−α)·L_MLM-distill + L_NSP on a pre-training batch."""
        weights = self.settings.losses
        batch = self.signals.pretraining_batch(step, share)
        hidden = self._body(**batch.inputs).last_hidden_state
        logits = blocks.mlm_logits(self.student, hidden, batch.masked_positions).float()
        teacher = self.signals.mlm_target(step, share) if weights.alpha < 1 else None
        loss = masked_lm_loss(logits, teacher, batch.masked_labels, weights.alpha, weights.temperature) / totals[0]
        if weights.nsp:
            scores = blocks.nsp_logits(self.student, hidden).float()
            next_sentence = F.cross_entropy(scores, batch.next_sentence_labels, reduction="sum")
            loss = loss + weights.nsp * next_sentence / totals[1]
        return loss
