from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from flashdistill.evaluation.pretraining_accuracy import pretraining_accuracy, student_predictor
from flashdistill.evaluation.served_accuracy import Serve, served_accuracy
from flashdistill.models import blocks
from flashdistill.models.students import build_student
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, TinyData

SHAPE = (11, 32)


def runtime(student: object, noise: float = 0.0) -> Serve:
    """Computes in PyTorch what a runtime would, in the runtime's fixed shape, a little wrong if asked."""
    random = np.random.default_rng(0)

    def serve(inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        assert {array.shape for array in inputs.values()} == {SHAPE}
        with torch.no_grad():
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            features = blocks.last_hidden(student, tensors).numpy()  # type: ignore[arg-type]
        return [features + noise * random.normal(size=features.shape).astype(np.float32)]

    return serve


@pytest.fixture(scope="module")
def batches() -> list:
    return list(TinyData().validation_batches(SHAPE[0] - 1))


def test_an_exact_runtime_costs_nothing(batches: list) -> None:
    student = build_student(ARCHITECTURE, FAMILY, 0)
    served = served_accuracy(student, runtime(student), SHAPE, batches)
    own = pretraining_accuracy(student_predictor(student, with_nsp=False), batches)["mlm_accuracy"]
    assert (served.name, served.value, served.stderr, served.samples) == (
        "served_mlm_accuracy",
        own.value,
        own.stderr,
        own.samples,
    )
    assert served.details["accuracy_cost"] == 0
    assert served.details["agreement"] == 1


def test_a_coarse_runtime_costs_accuracy(batches: list) -> None:
    student = build_student(ARCHITECTURE, FAMILY, 0)
    own = student_predictor(student, with_nsp=False)
    with torch.no_grad():
        # The truth is what the student itself predicts, so that any change of mind costs.
        truth = [dataclasses.replace(batch, masked_labels=own(batch)[0].argmax(-1).numpy()) for batch in batches]
    served = served_accuracy(student, runtime(student, noise=3.0), SHAPE, truth)
    assert 0 <= served.value < 1
    assert served.details["accuracy_cost"] == pytest.approx(1 - served.value)
    assert served.details["agreement"] == pytest.approx(served.value)
    assert isinstance(error := served.details["accuracy_cost_stderr"], float)
    assert error > 0
