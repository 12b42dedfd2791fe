"""The losses of distillation as plain functions.

Every function returns a *sum* over tokens; what it is divided by is the number of tokens of the
whole batch, which may be larger than what one process sees at a time. Padding tokens do not
count: S in the paper's averages is the number of real tokens.

Shapes: B sequences, S tokens, H heads, N width, M masked tokens, V vocabulary, K kept entries
of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

LAYER_NORM_EPSILON = 1e-5


class TopTokens(NamedTuple):
    """A teacher's distribution cut down to its most probable tokens.

    Attributes:
        indices: [M, K] tokens.
        logits: [M, K].
    """

    indices: torch.Tensor
    logits: torch.Tensor


def attention_divergence(
    teacher_attention: torch.Tensor, student_log_attention: torch.Tensor, token_mask: torch.Tensor
) -> torch.Tensor:
    """Attention transfer, Eq. 1: KL(teacher ‖ student), mean over heads, sum over tokens; in nats.

    Args:
        teacher_attention: [B, H, S, S], each row a distribution over keys; 0 where a key is padding.
        student_log_attention: [B, H, S, S], log-probabilities; finite or −inf where a key is padding.
        token_mask: [B, S], 1 for real tokens: they are the queries that count.
    """
    key_is_padding = ~token_mask[:, None, None, :].bool()
    divergence = F.kl_div(student_log_attention.masked_fill(key_is_padding, 0.0), teacher_attention, reduction="none")
    per_token = divergence.sum(-1).mean(1)
    return (per_token * token_mask).sum()


def squared_difference(teacher: torch.Tensor, student: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """Feature-map transfer, Eq. 2: squared difference, mean over the width, sum over tokens.

    Args:
        teacher, student: [B, S, N], both in the teacher's width.
        token_mask: [B, S], 1 for real tokens.
    """
    return ((teacher - student).square().mean(-1) * token_mask).sum()


def normalized_difference(teacher: torch.Tensor, student: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """`squared_difference` behind a layer norm without parameters (MobileBERT's public code)."""
    width = teacher.shape[-1:]
    of_teacher, of_student = (F.layer_norm(features, width, eps=LAYER_NORM_EPSILON) for features in (teacher, student))
    return squared_difference(of_teacher, of_student, token_mask)


def mean_difference(teacher: torch.Tensor, student: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """Squared difference of every token's mean feature, sum over tokens (MobileBERT's public code)."""
    return ((teacher.mean(-1) - student.mean(-1)).square() * token_mask).sum()


def variance_difference(teacher: torch.Tensor, student: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """Absolute difference of every token's feature variance, sum over tokens (MobileBERT's public code)."""
    difference = teacher.var(-1, unbiased=False) - student.var(-1, unbiased=False)
    return (difference.abs() * token_mask).sum()


def relation_divergence(
    teacher: torch.Tensor, student: torch.Tensor, token_mask: torch.Tensor, relation_heads: int
) -> torch.Tensor:
    """Relation transfer of MiniLMv2 (Wang et al. 2021, Eq. 2-4) for one of queries, keys and values.

    A relation is the softmax over tokens of the scaled products of all pairs of tokens' vectors,
    formed in ``relation_heads`` heads that are cut from the concatenated heads of either model.
    So neither head counts nor widths need to agree. KL(teacher ‖ student), mean over relation
    heads, sum over tokens; in nats.

    Args:
        teacher, student: [B, S, W], the heads side by side; W may differ.
        token_mask: [B, S], 1 for real tokens.
    """
    of_teacher = _relation(teacher, token_mask, relation_heads).exp()
    return attention_divergence(of_teacher, _relation(student, token_mask, relation_heads), token_mask)


def _relation(vectors: torch.Tensor, token_mask: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, S, W] → log-probabilities [B, heads, S, S], −inf at padding keys."""
    split = vectors.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = split @ split.transpose(2, 3) * split.shape[-1] ** -0.5
    return scores.masked_fill(~token_mask[:, None, None, :].bool(), float("-inf")).float().log_softmax(-1)


def masked_lm_loss(
    student_logits: torch.Tensor,
    teacher: torch.Tensor | TopTokens | None,
    labels: torch.Tensor,
    alpha: float,
    temperature: float = 1.0,
) -> torch.Tensor:
    """The masked-LM part of Eq. 3: α·L_MLM + (1−α)·L_MLM-distill, sum over masked tokens.

    L_MLM is the cross-entropy with the true tokens, L_MLM-distill the cross-entropy with the
    teacher's distribution (the KL divergence and the teacher's entropy, which has no gradient).
    At temperature 1 both are one cross-entropy with a mixed target, computed in one pass.

    Args:
        student_logits: [M, V].
        teacher: its logits [M, V], or its `TopTokens`, whose probabilities are scaled to sum to
            1; None where ``alpha`` is 1.
        labels: [M], the true tokens.
        alpha: share of the hard loss, 0 to 1.
        temperature: softens both distributions; the soft loss is scaled by its square, so that
            its gradient keeps its size.
    """
    if alpha == 1.0 or teacher is None:
        return F.cross_entropy(student_logits, labels, reduction="sum")
    if isinstance(teacher, TopTokens):
        soft = _top_cross_entropy(student_logits, teacher, temperature)
    else:
        soft_target = (teacher / temperature).softmax(-1)
        if temperature == 1.0:
            target = soft_target.mul_(1.0 - alpha)
            target.scatter_add_(1, labels[:, None], target.new_full((len(labels), 1), alpha))
            return F.cross_entropy(student_logits, target, reduction="sum")
        soft = F.cross_entropy(student_logits / temperature, soft_target, reduction="sum")
    hard = F.cross_entropy(student_logits, labels, reduction="sum")
    return alpha * hard + (1.0 - alpha) * temperature**2 * soft


def _top_cross_entropy(student_logits: torch.Tensor, teacher: TopTokens, temperature: float) -> torch.Tensor:
    """Cross-entropy with a distribution that is zero outside of K tokens: −Σ p·z + log Σ exp z."""
    scaled = student_logits / temperature
    probabilities = (teacher.logits / temperature).softmax(-1)
    return (scaled.logsumexp(-1) - (probabilities * scaled.gather(1, teacher.indices)).sum(-1)).sum()
