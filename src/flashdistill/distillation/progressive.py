"""Progressive knowledge transfer: stage k trains block k alone on the teacher's maps (Eq. 1-2).

The blocks before k are frozen, so their outputs for the stage's batches are computed once and
moved forward after every stage (the rolling cache): a stage step then costs one student block,
whatever k. In a soft freeze the earlier blocks go on learning at a small rate, so a step runs
and differentiates all blocks up to k.

Shapes: B sequences, S tokens, h student hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from flashdistill.distillation import losses as terms
from flashdistill.distillation.adapters import HeadAdapter, WidthAdapter
from flashdistill.distillation.layer_map import layer_map
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.signals import StageSignals, TeacherSignals
from flashdistill.models import blocks
from flashdistill.training.compute import WHOLE, Share
from flashdistill.training.loop import StepLoss


class StageInputs:
    """The student's feature maps [B, S, h] before a block, batch by batch.

    What is kept moves forward with the blocks asked for; a batch that there is no room for is
    run through the blocks anew each time.
    """

    def __init__(self, student: MobileBertForPreTraining, signals: TeacherSignals):
        self._student, self._signals = student, signals
        self._store = signals.rolling_store()

    @torch.no_grad()
    def get(self, index: int, share: Share, block: int, keep: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """What enters ``block`` for stage batch ``index``, and the token mask [B, S].

        The blocks before must not have changed since the batch was last asked for.
        """
        inputs = self._signals.stage_batch(index, share).inputs
        token_mask = inputs["attention_mask"]
        position, hidden = self._store.get((index, share)) or (block + 1, None)
        if hidden is not None and position == block:
            return hidden, token_mask
        if hidden is None or position > block:
            position, hidden = 0, blocks.embed(self._student, inputs)
        mask = blocks.additive_mask(token_mask)
        for number in range(position, block):
            hidden = blocks.run_block(self._student, number, hidden, mask)
        if keep:
            self._store.put((index, share), block, hidden)
        return hidden, token_mask


class Stage(StepLoss):
    """The loss of one stage: the block in training, its adapters, and the blocks before it."""

    def __init__(
        self,
        student: MobileBertForPreTraining,
        signals: TeacherSignals,
        inputs: StageInputs,
        settings: DistillationSettings,
        projection: torch.Tensor,
        block: int,
    ):
        """``projection`` [N, h] is how the student's features start out in the teacher's frame."""
        super().__init__()
        shape = signals.teacher.shape
        self.student, self.signals, self.inputs, self.settings, self.block = student, signals, inputs, settings, block
        self.batch_size = settings.batch_size
        self.num_blocks = blocks.num_blocks(student)
        taught = layer_map(self.num_blocks, shape.num_blocks)
        self.teacher_block, self.taught_again = taught[block], taught[block] in taught[block + 1 :]
        adapters: dict[str, nn.Module] = {"width": WidthAdapter(projection)}
        if settings.losses.attention:
            adapters["heads"] = HeadAdapter(student.config.num_attention_heads, shape.num_heads)
        self.adapters = nn.ModuleDict(adapters).to(signals.device)

    def trained(self) -> list[nn.Parameter]:
        """What the stage trains at the full rate: the block and its adapters."""
        return [*blocks.block(self.student, self.block).parameters(), *self.adapters.parameters()]

    def slowed(self) -> list[nn.Parameter]:
        """What it trains at the rate of earlier blocks."""
        if not self.settings.earlier_block_rate:
            return []
        return [weight for number in range(self.block) for weight in blocks.block(self.student, number).parameters()]

    def sizes(self, step: int, share: Share) -> tuple[float]:
        """Real tokens."""
        return (float(self.signals.stage_batch(self._batch_index(step), share).num_tokens),)

    def forward(self, step: int, share: Share = WHOLE, totals: Sequence[float] = ()) -> torch.Tensor:
        """Weighted sum of the configured losses on a stage batch."""
        shared = self.settings.stage_batches == "same"
        index = self._batch_index(step)
        first = 0 if self.settings.earlier_block_rate else self.block
        hidden, token_mask = self.inputs.get(index, share, first, keep=shared)
        mask = blocks.additive_mask(token_mask)
        for number in range(first, self.block):
            hidden = blocks.run_block(self.student, number, hidden, mask)
        answers = self.signals.stage(index, share, self.teacher_block, shared, self.taught_again)
        with blocks.captured_projections(self.student, self.block) as projections:
            features = blocks.run_block(self.student, self.block, hidden, mask)
        loss = self._feature_loss(answers.features, self.adapters["width"](features).float(), token_mask)
        loss = loss + self._attention_loss(answers, projections, mask, token_mask)
        divisor = totals[0] * (self.num_blocks if self.settings.losses.divide_by_blocks else 1)
        return loss / divisor

    def _feature_loss(self, teacher: torch.Tensor, student: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
        weights = self.settings.losses
        weighted = (
            (weights.feature_map, terms.squared_difference),
            (weights.normalized_feature_map, terms.normalized_difference),
            (weights.feature_mean, terms.mean_difference),
            (weights.feature_variance, terms.variance_difference),
        )
        parts = [weight * term(teacher, student, token_mask) for weight, term in weighted if weight]
        return torch.stack(parts).sum()  # the settings demand one at least

    def _attention_loss(
        self, answers: StageSignals, projections: dict[str, torch.Tensor], mask: torch.Tensor, token_mask: torch.Tensor
    ) -> torch.Tensor:
        weights = self.settings.losses
        loss = mask.new_zeros(())
        if answers.attention is not None:
            log_attention = blocks.log_attention(self.student, self.block, projections, mask)
            of_teacher, of_student = self.adapters["heads"](answers.attention, log_attention)
            loss = loss + weights.attention * terms.attention_divergence(of_teacher, of_student, token_mask)
        for of_teacher, name in zip(answers.projections, ("query", "key", "value"), strict=False):
            of_student = projections[name].float()
            divergence = terms.relation_divergence(of_teacher, of_student, token_mask, weights.relation_heads)
            loss = loss + weights.relations * divergence
        return loss

    def _batch_index(self, step: int) -> int:
        if self.settings.stage_batches == "same":
            return step
        return self.block * (self.settings.steps_per_block or 0) + step
