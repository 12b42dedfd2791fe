"""Losses of fine-tuning, as means over the sequences of a batch.

Shapes: B sequences of a share, C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from flashdistill.evaluation.finetuning.sequences import Indices, Sequences, StepOrder
from flashdistill.evaluation.finetuning.settings import TaskDistillation
from flashdistill.models.single_blocks import accepted_inputs
from flashdistill.training.compute import Share
from flashdistill.training.loop import StepLoss


class SequenceLoss(StepLoss):
    """A mean over sequences of what `of_outputs` gives for each; data order and dropout follow the step."""

    def __init__(self, model: PreTrainedModel, sequences: Sequences, order: StepOrder):
        super().__init__()
        self.model = model
        self.batch_size = order.batch_size
        self.order = order
        self._sequences = sequences

    def sizes(self, step: int, share: Share) -> tuple[float, ...]:
        return (float(len(self.order.rows(step, share))),)

    def forward(self, step: int, share: Share, totals: Sequence[float]) -> torch.Tensor:
        rows = self.order.rows(step, share)
        device: torch.device = self.model.device
        inputs = accepted_inputs(self.model.config, self._sequences.batch(rows, device))
        with self.order.dropout(step, share, device):
            outputs = self.model(**inputs)
        return self.of_outputs(outputs, rows).sum() / totals[0]

    @abstractmethod
    def of_outputs(self, outputs: Any, rows: Indices) -> torch.Tensor:
        """The loss of each sequence, [B].

        Args:
            outputs: what the model's forward returned.
            rows: [B], which of the training sequences they are.
        """


def soft_cross_entropy(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) over the last axis (Hinton et al. 2015), [B, C] → [B]."""
    learnt = F.log_softmax(student.float() / temperature, -1)
    taught = F.log_softmax(teacher.float() / temperature, -1)
    return temperature**2 * (taught.exp() * (taught - learnt)).sum(-1)


class _TaughtLoss(SequenceLoss):
    """Labels and, where there is a teacher, its outputs, weighed against each other."""

    def __init__(
        self,
        model: PreTrainedModel,
        sequences: Sequences,
        order: StepOrder,
        labels: np.ndarray,
        teacher: np.ndarray | None = None,
        distillation: TaskDistillation | None = None,
    ):
        """``labels`` [n] and ``teacher`` [n, C] belong to ``sequences``; both of the last two or neither."""
        super().__init__(model, sequences, order)
        assert (teacher is None) == (distillation is None)
        self._labels, self._teacher, self._distillation = labels, teacher, distillation

    def of_outputs(self, outputs: Any, rows: Indices) -> torch.Tensor:
        logits = outputs.logits.float()
        own = self._from_labels(logits, torch.from_numpy(self._labels[rows]).to(logits.device))
        if self._teacher is None or self._distillation is None:
            return own
        taught = self._from_teacher(
            logits, torch.from_numpy(self._teacher[rows]).to(logits.device), self._distillation.temperature
        )
        weight = self._distillation.weight
        return (1 - weight) * own + weight * taught

    @abstractmethod
    def _from_labels(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def _from_teacher(self, logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor: ...


class ClassificationLoss(_TaughtLoss):
    """Cross-entropy, and the KL divergence from the teacher's softened classes."""

    def _from_labels(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    def _from_teacher(self, logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        return soft_cross_entropy(logits, teacher, temperature)


class RegressionLoss(_TaughtLoss):
    """Squared error, from the labels and from the teacher's values; logits and teacher are [B, 1]."""

    def _from_labels(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits.squeeze(-1) - labels).square()

    def _from_teacher(self, logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        return (logits - teacher).square().squeeze(-1)
