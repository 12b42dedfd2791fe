"""The loss of extractive question answering.

Shapes: B windows of a share, W windows in all, S tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from flashdistill.core.errors import InputError
from flashdistill.evaluation.finetuning.losses import SequenceLoss, soft_cross_entropy
from flashdistill.evaluation.finetuning.question_windows import QuestionFeatures
from flashdistill.evaluation.finetuning.sequences import Indices, StepOrder
from flashdistill.evaluation.finetuning.settings import TaskDistillation

NEVER = -1e4
"""The logit of padding: no probability, and finite, so that nothing times it is not a number."""


class QuestionLoss(SequenceLoss):
    """Mean of the cross-entropies of an answer's first and last token (Devlin et al. 2019, §4.2).

    Both are distributions over a window's real tokens; of a window without the answer the target
    is its first token. With a teacher the KL divergences from its two softened distributions come
    beside them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        features: QuestionFeatures,
        order: StepOrder,
        teacher: np.ndarray | None = None,
        distillation: TaskDistillation | None = None,
    ):
        """``teacher`` is [W, 2, S]; it comes with ``distillation`` or not at all.

        Raises:
            InputError: the teacher has seen other windows.
        """
        super().__init__(model, features.sequences, order)
        assert (teacher is None) == (distillation is None)
        self._lengths = features.sequences.lengths
        self._targets = features.targets
        self._teacher, self._distillation = teacher, distillation
        expected = (len(features), 2, int(self._lengths.max(initial=0)))
        if teacher is not None and teacher.shape != expected:
            raise InputError(
                f"finetune.distillation.teacher: it sees the task as {teacher.shape[0]} windows of up to "
                f"{teacher.shape[-1]} tokens, the model as {expected[0]} of up to {expected[2]}; question answering is "
                "distilled token by token and needs a teacher with the same tokenizer"
            )

    def of_outputs(self, outputs: Any, rows: Indices) -> torch.Tensor:
        logits = torch.stack([outputs.start_logits, outputs.end_logits], 1).float()  # [B, 2, S]
        place = torch.arange(logits.shape[-1], device=logits.device)
        lengths = torch.from_numpy(self._lengths[rows]).to(logits.device)
        padding = place >= lengths[:, None, None]
        logits = logits.masked_fill(padding, NEVER)
        targets = torch.from_numpy(self._targets[rows].astype(np.int64)).to(logits.device)
        own = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        own = own.unflatten(0, (-1, 2)).mean(1)
        if self._teacher is None or self._distillation is None:
            return own
        # A batch may be padded beyond the longest window, and never is narrower than its own.
        width = min(logits.shape[-1], self._teacher.shape[-1])
        teacher = torch.from_numpy(self._teacher[rows, :, :width]).to(logits.device).float()
        teacher = teacher.masked_fill(padding[:, :, :width], NEVER)
        taught = soft_cross_entropy(logits[:, :, :width], teacher, self._distillation.temperature).mean(1)
        weight = self._distillation.weight
        return (1 - weight) * own + weight * taught
