"""Losses by hand, and the same whether a batch is computed whole or in shares."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flashdistill.data.tasks.task import Sentences, Task
from flashdistill.evaluation.finetuning.heads import load_for_task
from flashdistill.evaluation.finetuning.losses import ClassificationLoss, RegressionLoss, soft_cross_entropy
from flashdistill.evaluation.finetuning.sequences import Sequences, StepOrder, encode
from flashdistill.evaluation.finetuning.settings import TaskDistillation
from flashdistill.training.compute import WHOLE, Share
from tests.evaluation.finetuning.tiny_task import polarity, save_bert, strength, tokenizer

ROWS = np.array([1, 0])


def tokenised(task: Task) -> tuple[Sequences, np.ndarray]:
    assert isinstance(task.train, Sentences)
    assert task.train.labels is not None
    return encode(task.train.texts, task.train.pairs, tokenizer(), 16), task.train.labels


def no_model() -> tuple[torch.nn.Module, Sequences, StepOrder]:
    return torch.nn.Module(), Sequences.of([[1]] * 2, [[0]] * 2, 0, 8), StepOrder(2, 2, 0)


def test_soft_cross_entropy_is_the_divergence_of_softened_distributions() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    # At T = 2 the teacher says ¾ and ¼, the student ½ and ½.
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert soft_cross_entropy(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)
    assert soft_cross_entropy(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_classification_weighs_labels_and_teacher() -> None:
    teacher = np.array([[0.0, 0.0], [2 * math.log(3.0), 0.0]], dtype=np.float32)
    loss = ClassificationLoss(
        *no_model(), np.array([0, 1]), teacher, TaskDistillation(teacher="t", weight=0.25, temperature=2)
    )  # type: ignore[arg-type]
    outputs = SimpleNamespace(logits=torch.tensor([[0.0, 0.0], [0.0, math.log(4.0)]]))
    found = loss.of_outputs(outputs, ROWS)
    kl = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found[0].item() == pytest.approx(0.75 * math.log(2) + 0.25 * kl, rel=1e-5)
    # Class 0 has one part of five; at T = 2 the student says ⅓ and ⅔, the teacher ½ and ½.
    other = 4 * (0.5 * math.log(0.5 * 3) + 0.5 * math.log(0.5 * 1.5))
    assert found[1].item() == pytest.approx(0.75 * math.log(5) + 0.25 * other, rel=1e-5)


def test_regression_weighs_values_and_teacher() -> None:
    labels, teacher = np.array([1.0, 2.0], dtype=np.float32), np.array([[0.0], [5.0]], dtype=np.float32)
    loss = RegressionLoss(*no_model(), labels, teacher, TaskDistillation(teacher="t", weight=0.5))  # type: ignore[arg-type]
    found = loss.of_outputs(SimpleNamespace(logits=torch.tensor([[3.0], [3.0]])), ROWS)
    assert found.tolist() == [0.5 * 1 + 0.5 * 4, 0.5 * 4 + 0.5 * 9]
    plain = RegressionLoss(*no_model(), labels)  # type: ignore[arg-type]
    assert plain.of_outputs(SimpleNamespace(logits=torch.tensor([[3.0], [3.0]])), ROWS).tolist() == [1, 4]


@pytest.mark.parametrize("task", [polarity(), strength()], ids=lambda task: task.kind)
def test_shares_add_up_to_the_whole(tmp_path: Path, task: Task) -> None:
    model = load_for_task(save_bert(tmp_path), task, 0, dropout=0.0).model.train()
    sequences, labels = tokenised(task)
    family = ClassificationLoss if task.kind == "classification" else RegressionLoss
    loss = family(model, sequences, StepOrder(len(labels), 10, 0), labels)
    shares = [Share(index, 3) for index in range(3)]
    assert [loss.sizes(4, share) for share in shares] == [(3.0,), (3.0,), (4.0,)]
    parts = sum(loss(4, share, (10.0,)).item() for share in shares)
    assert parts == pytest.approx(loss(4, WHOLE, (10.0,)).item(), rel=1e-5)


def test_dropout_acts_and_repeats_itself(tmp_path: Path) -> None:
    task = polarity()
    model = load_for_task(save_bert(tmp_path), task, 0, dropout=0.5).model.train()
    sequences, labels = tokenised(task)
    loss = ClassificationLoss(model, sequences, StepOrder(len(labels), 10, 0), labels)
    first = loss(0, WHOLE, (10.0,)).item()
    torch.rand(3)
    assert loss(0, WHOLE, (10.0,)).item() == first
    model.eval()
    assert loss(0, WHOLE, (10.0,)).item() != first
