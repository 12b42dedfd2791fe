"""What a student's accuracy becomes when a serving runtime computes it in its own precision.

Shapes: B sequences, S tokens, M masked tokens, h hidden size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from transformers import MobileBertForPreTraining

from flashdistill.core.measurement import Measurement
from flashdistill.data.batch import Batch
from flashdistill.evaluation.pretraining_accuracy import Predict, RatioOfSums, student_predictor
from flashdistill.models import blocks

Serve = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]
"""The runtime: ``input_ids``, ``attention_mask``, ``token_type_ids``, int64 [B, S] → [last feature map [B, S, h]]."""


def served_predictor(student: MobileBertForPreTraining, serve: Serve, shape: tuple[int, int]) -> Predict:
    """Masked-LM predictions from the features that the runtime computes.

    The head stays in float32 on this machine: what is served is the encoder, and tasks bring
    heads of their own.

    Args:
        shape: of the runtime's inputs [B, S]; smaller batches are padded to it.
    """

    def predict(batch: Batch) -> tuple[torch.Tensor, None]:
        rows, length = batch.input_ids.shape
        inputs = {
            name: _padded(array, shape)
            for name, array in (
                ("input_ids", batch.input_ids),
                ("attention_mask", batch.attention_mask),
                ("token_type_ids", batch.token_type_ids),
            )
        }
        # A sequence that is padding from end to end has nothing to attend to.
        inputs["attention_mask"][rows:, 0] = 1
        features = np.ascontiguousarray(serve(inputs)[0][:rows, :length], dtype=np.float32)
        positions = torch.from_numpy(batch.masked_positions)
        return blocks.mlm_logits(student, torch.from_numpy(features), positions), None

    return predict


@torch.no_grad()
def served_accuracy(
    student: MobileBertForPreTraining, serve: Serve, shape: tuple[int, int], batches: Iterable[Batch]
) -> Measurement:
    """``served_mlm_accuracy`` on the same masked tokens as ``mlm_accuracy``.

    Its details say what serving costs: ``accuracy_cost`` is the student's own accuracy in float32
    minus the served one, with ``accuracy_cost_stderr`` from the tokens' differences, which is far
    smaller than either accuracy's own error; ``agreement`` is the share of tokens for which both
    predict the same entry.

    Args:
        student: in evaluation mode on the CPU.
        shape: of the runtime's inputs [B, S]; no batch may be larger.
    """
    own, served = student_predictor(student, with_nsp=False), served_predictor(student, serve, shape)
    accuracy, cost, agreement = (RatioOfSums() for _ in range(3))
    for batch in batches:
        expected, got = own(batch)[0].argmax(-1), served(batch)[0].argmax(-1)
        labels = torch.from_numpy(batch.masked_labels)
        sequences = batch.masked_positions // batch.input_ids.shape[1]
        hits, reference = ((found == labels).double().numpy() for found in (got, expected))
        same = (got == expected).double().numpy()
        for ratio, values in ((accuracy, hits), (cost, reference - hits), (agreement, same)):
            ratio.add(values, sequences, len(batch.input_ids))
    difference = cost.measurement("mlm_accuracy")
    details = {
        "accuracy_cost": difference.value,
        "accuracy_cost_stderr": difference.stderr,
        "agreement": agreement.measurement("mlm_accuracy").value,
    }
    return dataclasses.replace(accuracy.measurement("served_mlm_accuracy"), details=details)


def _padded(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The array with zeros behind it in both axes."""
    rows, length = array.shape
    return np.pad(array, ((0, shape[0] - rows), (0, shape[1] - length)))
