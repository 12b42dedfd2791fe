"""The losses of the paper's Eq. 1 to 3 as plain functions.

Shapes: B sequences, S tokens, H heads, N width, M masked tokens, V vocabulary. Padding tokens
do not count: S in the paper's averages is the number of real tokens.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

TINY = 1e-9
"""Floor of a teacher probability inside a logarithm."""


def attention_loss(
    teacher_attention: torch.Tensor, student_log_attention: torch.Tensor, token_mask: torch.Tensor
) -> torch.Tensor:
    """Attention transfer, Eq. 1: mean over tokens and heads of KL(teacher ‖ student).

    Args:
        teacher_attention: [B, H, S, S], each row a distribution over keys.
        student_log_attention: [B, H, S, S], log-probabilities; −inf where a key is padding.
        token_mask: [B, S], 1 for real tokens: they are the queries that count.

    Returns:
        A scalar, in nats.
    """
    key_mask = token_mask[:, None, None, :].bool()
    log_student = student_log_attention.masked_fill(~key_mask, 0.0)
    divergence = (teacher_attention * (teacher_attention.clamp_min(TINY).log() - log_student)).sum(-1)
    weights = token_mask[:, None, :].to(divergence.dtype)
    return (divergence * weights).sum() / (weights.sum() * divergence.shape[1])


def feature_map_loss(
    teacher_features: torch.Tensor, student_features: torch.Tensor, token_mask: torch.Tensor
) -> torch.Tensor:
    """Feature-map transfer, Eq. 2: mean squared difference over tokens and width.

    Args:
        teacher_features: [B, S, N].
        student_features: [B, S, N], already projected to the teacher's width.
        token_mask: [B, S], 1 for real tokens.
    """
    squared = (teacher_features - student_features).square().mean(-1)
    weights = token_mask.to(squared.dtype)
    return (squared * weights).sum() / weights.sum()


def mlm_distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    temperature: float = 1.0,
) -> torch.Tensor:
    """The masked-LM part of Eq. 3: α·L_MLM + (1−α)·L_MLM-distill, mean over masked tokens.

    L_MLM is the cross-entropy with the true tokens, L_MLM-distill the cross-entropy with the
    teacher's distribution (the KL divergence and the teacher's entropy, which has no gradient).
    At temperature 1 both are one cross-entropy with a mixed target, computed in one pass.

    Args:
        student_logits, teacher_logits: [M, V].
        labels: [M], the true tokens.
        alpha: share of the hard loss, 0 to 1.
        temperature: softens both distributions; the soft loss is scaled by its square, so that
            its gradient keeps its size.
    """
    if alpha == 1.0:
        return F.cross_entropy(student_logits, labels)
    soft_target = (teacher_logits / temperature).softmax(-1)
    if temperature == 1.0:
        target = soft_target.mul(1.0 - alpha)
        target.scatter_add_(1, labels[:, None], target.new_full((len(labels), 1), alpha))
        return F.cross_entropy(student_logits, target)
    soft = F.cross_entropy(student_logits / temperature, soft_target) * temperature**2
    return alpha * F.cross_entropy(student_logits, labels) + (1.0 - alpha) * soft
