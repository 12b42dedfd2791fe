"""Eq. 1 to 3 of the paper, written down plainly on the outputs of two whole models.

This is what a careful user writes: nothing is skipped, nothing is reused. The losses equal the
package's own to rounding errors (a test checks it), so that all contenders learn the same.

Shapes: B sequences, S tokens, H heads, N teacher width, h student hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from benchmarks.distillation_peers.workload import ALPHA, TensorBatch

_TINY = 1e-9


def attention_transfer(
    teacher_attention: torch.Tensor, student_attention: torch.Tensor, token_mask: torch.Tensor
) -> torch.Tensor:
    """Eq. 1: KL divergence of attention maps, mean over tokens and heads.

    Args:
        teacher_attention: [B, H_t, S, S]; averaged over groups of heads where the student has fewer.
        student_attention: [B, H_s, S, S]; H_s divides H_t.
        token_mask: [B, S], 1 for real tokens.
    """
    heads = student_attention.shape[1]
    teacher_attention = teacher_attention.unflatten(1, (heads, -1)).mean(2)
    logs = teacher_attention.clamp_min(_TINY).log() - student_attention.clamp_min(_TINY).log()
    divergence = (teacher_attention * logs).sum(-1)
    weights = token_mask[:, None, :].to(divergence.dtype)
    return (divergence * weights).sum() / (weights.sum() * heads)


def feature_transfer(teacher: torch.Tensor, student: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """Eq. 2: mean squared difference of feature maps [B, S, N] over real tokens and width."""
    weights = token_mask.to(student.dtype)
    return ((teacher - student).square().mean(-1) * weights).sum() / weights.sum()


def hard_loss(mlm_logits: torch.Tensor, nsp_logits: torch.Tensor, batch: TensorBatch) -> torch.Tensor:
    """The part of Eq. 3 that needs no teacher, α·L_MLM + L_NSP, from logits [B, S, V] and [B, 2]."""
    mlm = F.cross_entropy(mlm_logits.flatten(0, 1), batch.labels.flatten())
    return ALPHA * mlm + F.cross_entropy(nsp_logits, batch.next_sentence_label)


def soft_loss(teacher_logits: torch.Tensor, student_logits: torch.Tensor, batch: TensorBatch) -> torch.Tensor:
    """L_MLM-distill: cross-entropy with the teacher's distribution, mean over masked tokens; logits [B, S, V]."""
    masked = batch.labels >= 0
    return F.cross_entropy(student_logits[masked], teacher_logits[masked].softmax(-1))


def pretraining_loss(
    teacher_logits: torch.Tensor, mlm_logits: torch.Tensor, nsp_logits: torch.Tensor, batch: TensorBatch
) -> torch.Tensor:
    """Eq. 3: α·L_MLM + (1−α)·L_MLM-distill + L_NSP."""
    return hard_loss(mlm_logits, nsp_logits, batch) + (1 - ALPHA) * soft_loss(teacher_logits, mlm_logits, batch)
