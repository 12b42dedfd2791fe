"""Bridges between a student's and a teacher's sizes; trained with a block and dropped at export.

Shapes: B sequences, S tokens, H_s and H_t heads, N_s and N_t widths.
"""

from __future__ import annotations

import torch
from torch import nn


class WidthAdapter(nn.Module):
    """A dense layer from the student's width to the teacher's, [B, S, N_s] → [B, S, N_t].

    It begins as the map that the embedding table was resampled with, so that the student's
    features start out as a projection of the teacher's.
    """

    def __init__(self, projection: torch.Tensor):
        """``projection``: [N_t, N_s], orthonormal columns."""
        super().__init__()
        teacher_width, student_width = projection.shape
        self.dense = nn.Linear(student_width, teacher_width)
        with torch.no_grad():
            self.dense.weight.copy_(projection)
            self.dense.bias.zero_()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.dense(features)


class HeadAdapter(nn.Module):
    """Makes the attention maps of teacher and student comparable, head by head.

    Where one head count divides the other, the maps of the larger side are averaged over groups
    of neighbouring heads. Otherwise a trained matrix mixes the student's attention scores into
    the teacher's number of heads before the softmax.
    """

    def __init__(self, student_heads: int, teacher_heads: int):
        super().__init__()
        self.student_heads, self.teacher_heads = student_heads, teacher_heads
        self.mixing: nn.Parameter | None = None
        if teacher_heads % student_heads and student_heads % teacher_heads:
            nearest = torch.arange(teacher_heads) * student_heads // teacher_heads
            self.mixing = nn.Parameter(nn.functional.one_hot(nearest, student_heads).float())

    def forward(
        self, teacher_attention: torch.Tensor, student_log_attention: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bring both to the same number of heads.

        Args:
            teacher_attention: [B, H_t, S, S], probabilities.
            student_log_attention: [B, H_s, S, S], log-probabilities, −inf at padding keys.

        Returns:
            Teacher probabilities and student log-probabilities, [B, H, S, S] both.
        """
        if self.mixing is not None:
            # The softmax forgets constants of a row, so log-probabilities serve as scores.
            padding = student_log_attention[:, :1].isneginf()
            scores = student_log_attention.masked_fill(padding, 0.0)
            mixed = torch.einsum("ts,bsqk->btqk", self.mixing, scores)
            return teacher_attention, mixed.masked_fill(padding, float("-inf")).log_softmax(-1)
        if self.student_heads <= self.teacher_heads:
            return _group_mean(teacher_attention, self.student_heads), student_log_attention
        averaged = _group_mean(student_log_attention.exp(), self.teacher_heads)
        return teacher_attention, averaged.clamp_min(torch.finfo(averaged.dtype).tiny).log()


def _group_mean(attention: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, H, S, S] → [B, heads, S, S], the mean over groups of neighbouring heads."""
    if attention.shape[1] == heads:
        return attention
    return attention.unflatten(1, (heads, -1)).mean(2)
