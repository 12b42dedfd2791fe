"""Accuracy on the pre-training tasks, on held-out documents with fixed masks.

Shapes: B sequences, S tokens, M masked tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F
from transformers import MobileBertForPreTraining

from flashdistill.core.measurement import Measurement, metric_unit
from flashdistill.data.batch import Batch
from flashdistill.evaluation.agreement import divergence, top_match
from flashdistill.models import blocks
from flashdistill.models.inputs import model_inputs
from flashdistill.models.teacher import Teacher

Predict = Callable[[Batch], tuple[torch.Tensor, torch.Tensor | None]]
"""Batch → masked-LM logits [M, V] and next-sentence logits [B, 2] (None without that head), on the CPU."""

Recall = Callable[[int, Callable[[], torch.Tensor]], torch.Tensor]
"""Number of a batch, and how its tensor is computed where it is not known → the tensor."""

_LARGEST_EXPONENT = 700.0
"""exp of more does not fit into a double."""


@dataclass
class RatioOfSums:
    """A mean over tokens whose standard error respects that a sequence's tokens go together."""

    sums: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)

    def add(self, values: np.ndarray, groups: np.ndarray, num_groups: int) -> None:
        """Values [M] of the tokens of one batch; ``groups`` [M] are their sequences."""
        self.sums.append(np.bincount(groups, values, num_groups))
        self.counts.append(np.bincount(groups, minlength=num_groups))

    def measurement(self, name: str) -> Measurement:
        sums, counts = np.concatenate(self.sums), np.concatenate(self.counts)
        total = counts.sum()
        mean = float(sums.sum() / total)
        # Linearised variance of a ratio of sums over independent sequences.
        residuals = sums - mean * counts
        n = len(sums)
        stderr = float(np.sqrt((residuals**2).sum() * n / max(n - 1, 1)) / total)
        return Measurement.of(name, mean, stderr=stderr, samples=int(total), split="validation")


@torch.no_grad()
def pretraining_accuracy(
    predict: Predict, batches: Iterable[Batch], teacher: Predict | None = None
) -> dict[str, Measurement]:
    """``mlm_accuracy``, ``mlm_loss`` (nats), ``perplexity`` and, with a next-sentence head, ``nsp_accuracy``.

    The accuracy of a masked token counts 1 if the most probable entry is the true one. Standard
    errors are over sequences.

    Args:
        teacher: asked for its predictions too, if given; then ``teacher_agreement`` (share of the
            tokens with the same most probable entry) and ``teacher_kl`` (KL(teacher ‖ student),
            nats) are among the results.
    """
    ratios: dict[str, RatioOfSums] = {}

    def add(name: str, values: np.ndarray, groups: np.ndarray, num_groups: int) -> None:
        ratios.setdefault(name, RatioOfSums()).add(values, groups, num_groups)

    for batch in batches:
        mlm_logits, nsp_logits = predict(batch)
        labels = torch.from_numpy(batch.masked_labels)
        count, length = batch.input_ids.shape
        sequences = batch.masked_positions // length
        add("mlm_accuracy", (mlm_logits.argmax(-1) == labels).double().numpy(), sequences, count)
        losses = F.cross_entropy(mlm_logits, labels, reduction="none").double().numpy()
        add("mlm_loss", losses, sequences, count)
        if nsp_logits is not None:
            answers = (nsp_logits.argmax(-1).numpy() == batch.next_sentence_labels).astype(np.float64)
            add("nsp_accuracy", answers, np.arange(count), count)
        if teacher is not None:
            taught, _ = teacher(batch)
            add("teacher_agreement", top_match(mlm_logits, taught), sequences, count)
            add("teacher_kl", divergence(mlm_logits, taught), sequences, count)
    results: dict[str, Measurement] = {}
    for name, ratio in ratios.items():
        results[name] = ratio.measurement(name)
        if name == "mlm_loss":
            results["perplexity"] = perplexity(results[name])
    return results


def perplexity(loss: Measurement) -> Measurement:
    """exp of a mean loss in nats; its standard error by the delta method, exp(loss) times the loss's."""
    # A loss that overflows is far beyond any vocabulary's logarithm: the student has diverged.
    value = math.exp(loss.value) if loss.value < _LARGEST_EXPONENT else math.inf
    stderr = None if loss.stderr is None else value * loss.stderr
    return dataclasses.replace(loss, name="perplexity", unit=metric_unit("perplexity"), value=value, stderr=stderr)


def student_predictor(student: MobileBertForPreTraining, with_nsp: bool) -> Predict:
    """Predictions of a student in evaluation mode."""

    device = student.device

    def predict(batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden = blocks.last_hidden(student, model_inputs(batch, device))
        mlm = blocks.mlm_logits(student, hidden, torch.from_numpy(batch.masked_positions).to(device))
        return mlm.cpu(), blocks.nsp_logits(student, hidden).cpu() if with_nsp else None

    return predict


def teacher_predictor(teacher: Teacher, recall: Recall | None = None) -> Predict:
    """Predictions of a teacher's masked-LM head; its next-sentence head, if any, is not asked.

    Args:
        recall: finds its feature maps at the masked tokens of a batch, by the batch's number, or has
            them computed.
    """
    numbers = itertools.count()

    def features(batch: Batch) -> torch.Tensor:
        positions = torch.from_numpy(batch.masked_positions).to(teacher.device)
        return teacher.masked_features(model_inputs(batch, teacher.device), positions)

    def predict(batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        if recall is None:
            return teacher.mlm_logits(features(batch)).cpu(), None
        found = recall(next(numbers), lambda: features(batch).cpu())
        return teacher.mlm_logits(found.to(teacher.device)).cpu(), None

    return predict
