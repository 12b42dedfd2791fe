from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from flashdistill.core.measurement import Measurement
from flashdistill.data.batch import Batch
from flashdistill.evaluation.pretraining_accuracy import (
    perplexity,
    pretraining_accuracy,
    student_predictor,
    teacher_predictor,
)
from flashdistill.models.inputs import model_inputs
from flashdistill.models.students import build_student
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, VOCAB_SIZE, TinyData, tiny_teacher


def oracle(wrong: int):  # type: ignore[no-untyped-def]
    """Predicts every label but the first ``wrong`` of a batch; next sentences always "follows"."""

    def predict(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        labels = batch.masked_labels.copy()
        labels[:wrong] = (labels[:wrong] + 1) % VOCAB_SIZE
        logits = torch.nn.functional.one_hot(torch.from_numpy(labels), VOCAB_SIZE).float() * 50
        return logits, torch.tensor([[1.0, 0.0]]).repeat(len(batch.input_ids), 1)

    return predict


def test_counts_by_hand() -> None:
    batches = list(TinyData().validation_batches(8))
    tokens = sum(len(batch.masked_labels) for batch in batches)
    scores = pretraining_accuracy(oracle(wrong=2), batches)
    assert scores["mlm_accuracy"].value == pytest.approx(1 - 2 * len(batches) / tokens)
    assert scores["mlm_accuracy"].samples == tokens
    labels = np.concatenate([batch.next_sentence_labels for batch in batches])
    assert scores["nsp_accuracy"].value == pytest.approx((labels == 0).mean())
    assert scores["mlm_loss"].value == pytest.approx(50 * 2 * len(batches) / tokens, rel=1e-3)


def test_standard_error_counts_sequences_not_tokens() -> None:
    """A sequence that is all right or all wrong is one observation."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(300):
        good = rng.random(40) < 0.3
        mask = np.ones((40, 6), dtype=np.int64)
        labels = np.full(40 * 6, 7)
        batch = Batch(mask, mask, mask, np.arange(240), labels, np.zeros(40, dtype=np.int64))
        logits = torch.zeros(240, VOCAB_SIZE)
        logits[torch.from_numpy(np.repeat(good, 6)), 7] = 1.0
        score = pretraining_accuracy(lambda _, logits=logits: (logits, None), [batch])["mlm_accuracy"]
        means.append((score.value, score.stderr))
    values, errors = np.array(means).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_models_without_a_next_sentence_head_have_no_such_score() -> None:
    assert set(pretraining_accuracy(teacher_predictor(tiny_teacher()), TinyData().validation_batches(8))) == {
        "mlm_accuracy",
        "mlm_loss",
        "perplexity",
    }


def test_student_predictions_are_the_models_own() -> None:
    student = build_student(ARCHITECTURE, FAMILY, 0)
    batch = TinyData().batch(0, 4)
    with torch.no_grad():
        mlm, nsp = student_predictor(student, with_nsp=True)(batch)
        expected = student(**model_inputs(batch))
    positions = torch.from_numpy(batch.masked_positions)
    torch.testing.assert_close(mlm, expected.prediction_logits.flatten(0, 1)[positions])
    torch.testing.assert_close(nsp, expected.seq_relationship_logits)
    batches = list(TinyData().validation_batches(8))
    by_size = [
        pretraining_accuracy(student_predictor(student, True), split)["mlm_loss"].value
        for split in (batches, TinyData().validation_batches(8))
    ]
    assert by_size[0] == by_size[1]


def test_perplexity_and_its_error_by_the_delta_method() -> None:
    found = perplexity(Measurement.of("mlm_loss", math.log(20.0), stderr=0.1, samples=7))
    assert (found.name, found.unit, found.samples) == ("perplexity", "", 7)
    assert found.value == pytest.approx(20.0)
    assert found.stderr == pytest.approx(2.0)
    assert perplexity(Measurement.of("mlm_loss", 1e4)).value == math.inf


def test_agreement_with_the_teacher_by_hand() -> None:
    """Two tokens of four agree; errors are over sequences, not tokens."""
    mask = np.ones((2, 2), dtype=np.int64)
    batch = Batch(mask, mask, mask, np.arange(4), np.array([0, 0, 1, 1]), np.zeros(2, dtype=np.int64))
    even, leaning = [0.5, 0.5], [0.75, 0.25]
    student = torch.tensor([leaning, leaning, leaning, leaning]).log()
    taught = torch.tensor([leaning, leaning, leaning[::-1], leaning[::-1]]).log()
    found = pretraining_accuracy(lambda _: (student, None), [batch], lambda _: (taught, None))
    assert found["teacher_agreement"].value == 0.5
    # Sequence means 1 and 0: the standard error of their mean is 0.5.
    assert found["teacher_agreement"].stderr == pytest.approx(0.5)
    kl = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)
    assert found["teacher_kl"].value == pytest.approx(kl / 2)
    assert found["teacher_kl"].unit == "nats"
    flat = torch.tensor([even] * 4).log()
    same = pretraining_accuracy(lambda _: (flat, None), [batch], lambda _: (flat, None))
    assert same["teacher_kl"].value == pytest.approx(0.0, abs=1e-7)
    assert same["perplexity"].value == pytest.approx(2.0)


def test_a_student_that_is_its_teacher() -> None:
    predict = teacher_predictor(tiny_teacher())
    scores = pretraining_accuracy(predict, TinyData().validation_batches(8), predict)
    assert scores["teacher_agreement"].value == 1.0
    assert scores["teacher_kl"].value == pytest.approx(0.0, abs=1e-6)
    assert scores["teacher_kl"].samples == scores["mlm_accuracy"].samples


def test_a_teacher_that_remembers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, data = tiny_teacher(), TinyData()
    asked: list[int] = []
    real = teacher.masked_features
    monkeypatch.setattr(teacher, "masked_features", lambda *given: (asked.append(1), real(*given))[1])
    remembered: dict[int, torch.Tensor] = {}

    def recall(number: int, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        if number not in remembered:
            remembered[number] = compute()
        return remembered[number]

    first, second = (
        pretraining_accuracy(teacher_predictor(teacher, recall), data.validation_batches(8)) for _ in range(2)
    )
    assert first == second == pretraining_accuracy(teacher_predictor(tiny_teacher()), data.validation_batches(8))
    assert len(asked) == len(remembered) == len(list(data.validation_batches(8)))
