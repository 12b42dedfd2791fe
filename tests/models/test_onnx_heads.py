"""Fine-tuned students as ONNX answer as PyTorch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import MobileBertForQuestionAnswering, MobileBertForSequenceClassification

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.evaluation.finetuning.heads import (
    AutoDistillForQuestionAnswering,
    AutoDistillForSequenceClassification,
)
from flashdistill.models.onnx_heads import write_task_onnx
from flashdistill.models.students import student_config

CLASSES: dict[tuple[str, str], Any] = {
    ("mobilebert", "classes"): MobileBertForSequenceClassification,
    ("mobilebert", "answers"): MobileBertForQuestionAnswering,
    ("autodistill", "classes"): AutoDistillForSequenceClassification,
    ("autodistill", "answers"): AutoDistillForQuestionAnswering,
}


def answered(model: Any, path: Path, batch: int, length: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """ONNX's outputs and PyTorch's for random tokens, the last third of them padding."""
    random = np.random.default_rng(batch)
    mask = np.broadcast_to(np.arange(length) < length - length // 3, (batch, length)).astype(np.int64)
    inputs = {
        "input_ids": random.integers(0, 50, (batch, length)),
        "attention_mask": mask,
        "token_type_ids": random.integers(0, 2, (batch, length)),
    }
    with torch.no_grad():
        output = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    expected = [output[name].numpy() for name in output]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_outputs()] == list(output)
    return [np.asarray(one) for one in session.run(None, inputs)], expected


@pytest.mark.parametrize(("template", "head"), CLASSES)
@pytest.mark.parametrize("pooled", [True, False])
def test_the_graph_answers_as_the_model(tmp_path: Path, template: str, head: str, pooled: bool) -> None:
    family = StudentFamily(template, 2, 50, 8, max_positions=24)
    config = student_config(Architecture(16, 8, 2, 16, 2), family)
    config.num_labels, config.classifier_activation = (3 if head == "classes" else 2), pooled
    torch.manual_seed(0)
    model = CLASSES[template, head](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # every part counts
            parameter.normal_(0.0, 0.3)
    write_task_onnx(model, tmp_path / "model.onnx")
    for batch, length in ((1, 24), (3, 7)):  # both axes are dynamic
        got, expected = answered(model, tmp_path / "model.onnx", batch, length)
        for own, wanted in zip(got, expected, strict=True):
            assert own.shape == wanted.shape
            np.testing.assert_allclose(own, wanted, atol=1e-4 * np.abs(wanted).max())
