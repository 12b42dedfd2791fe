from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, DistilBertConfig, DistilBertForQuestionAnswering

from flashdistill.core.errors import DivergedError, InputError
from flashdistill.data.tasks.task import Question, Questions, Task
from flashdistill.evaluation.finetuning.kinds import recipe_for
from flashdistill.evaluation.finetuning.question_loss import QuestionLoss
from flashdistill.evaluation.finetuning.question_recipe import QuestionRecipe
from flashdistill.evaluation.finetuning.question_windows import QuestionFeatures
from flashdistill.evaluation.finetuning.sequences import StepOrder
from flashdistill.evaluation.finetuning.settings import TaskDistillation, TuningSettings
from flashdistill.training.compute import WHOLE, Share
from tests.evaluation.finetuning.question_cases import TEXT, question, wordpiece

TOKENIZER = wordpiece()
SETTINGS = TuningSettings(max_length=60, document_stride=12, max_query_length=20, max_answer_length=6)
ROWS = [
    question(TEXT, "Café", id="1"),
    question("A short one.", "short", text="How long is it?", id="2"),
    question(TEXT[:120], None, id="3"),
]


def task(rows: list[Question], unanswerable: bool = True, **others: Any) -> Task:
    split = Questions(rows)
    fields: dict[str, Any] = {"evaluation": {"validation": split}, "metrics": ("answer_f1", "exact_match"), **others}
    return Task("places", "question-answering", split, unanswerable=unanswerable, **fields)


def made(rows: list[Question] = ROWS) -> QuestionFeatures:
    return QuestionRecipe().features(Questions(rows), task(rows), TOKENIZER, SETTINGS)


def bert(seed: int = 0) -> Any:
    config = BertConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        initializer_range=0.5, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(seed)
    return BertForQuestionAnswering(config).eval()


def whole_order(features: QuestionFeatures) -> StepOrder:
    return StepOrder(len(features), len(features), seed=0)


def loss_of(loss: QuestionLoss, share: Share = WHOLE) -> torch.Tensor:
    return loss(0, share, [float(loss.batch_size)])


def test_the_seam_knows_it() -> None:
    assert isinstance(recipe_for("question-answering"), QuestionRecipe)


def test_the_loss_is_the_models_own_where_nothing_is_padded() -> None:
    features, model = made([ROWS[0]]), bert()
    assert len(features) > 2
    total = 0.0
    for window in range(len(features)):
        place = slice(features.sequences.offsets[window], features.sequences.offsets[window + 1])
        ids, types = (
            torch.from_numpy(array[place].astype(np.int64))[None]
            for array in (features.sequences.tokens, features.sequences.segments)
        )
        start, end = torch.from_numpy(features.targets[window].astype(np.int64))[:, None]
        with torch.no_grad():
            output = model(input_ids=ids, token_type_ids=types, start_positions=start, end_positions=end)
        total += float(output.loss)
    expected = total / len(features)
    assert loss_of(QuestionLoss(model, features, whole_order(features))).item() == pytest.approx(expected, rel=1e-5)


def test_shares_add_up_to_the_whole() -> None:
    features, model = made(), bert()
    outputs = QuestionRecipe().outputs(bert(1), features, 4)
    loss = QuestionLoss(model, features, whole_order(features), outputs, TaskDistillation(teacher="t"))
    gradients = []
    for count in (1, 3):
        model.zero_grad()
        parts = [loss_of(loss, Share(index, count)) for index in range(count)]
        torch.stack(parts).sum().backward()
        gradients.append((sum(part.item() for part in parts), model.qa_outputs.weight.grad.clone()))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-6)
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_distillation_by_hand() -> None:
    features, model = made([ROWS[1], ROWS[2]]), bert()
    recipe = QuestionRecipe()
    own, taught = (recipe.outputs(one, features, 4).astype(np.float64) for one in (model, bert(1)))
    total = 0.0
    for window, length in enumerate(features.sequences.lengths):
        for side in range(2):
            student, teacher = (_log_softmax(logits[window, side, :length] / 3.0) for logits in (own, taught))
            divergence = 9.0 * float((np.exp(teacher) * (teacher - student)).sum())
            error = -_log_softmax(own[window, side, :length])[features.targets[window, side]]
            total += (0.25 * error + 0.75 * divergence) / 2 / len(features)
    settings = TaskDistillation(teacher="t", weight=0.75, temperature=3.0)
    loss = QuestionLoss(model, features, whole_order(features), taught.astype(np.float32), settings)
    assert loss_of(loss).item() == pytest.approx(total, rel=1e-5)


def _log_softmax(values: np.ndarray) -> np.ndarray:
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


def test_a_teacher_that_is_the_student_teaches_nothing() -> None:
    features, model = made(), bert()
    outputs = QuestionRecipe().outputs(model, features, 4)
    loss = QuestionLoss(model, features, whole_order(features), outputs, TaskDistillation(teacher="t", weight=1.0))
    assert loss_of(loss).item() == pytest.approx(0.0, abs=1e-5)


def test_a_teacher_with_other_windows_is_refused() -> None:
    features = made()
    with pytest.raises(InputError, match="needs a teacher with the same tokenizer"):
        QuestionLoss(
            bert(), features, whole_order(features), np.zeros((3, 2, 9), np.float32), TaskDistillation(teacher="t")
        )


def test_outputs_are_the_models_in_order_and_finite() -> None:
    features, model = made(), bert()
    outputs = QuestionRecipe().outputs(model, features, 2)
    assert outputs.shape == (len(features), 2, features.sequences.lengths.max())
    assert outputs.dtype == np.float32
    # A teacher's outputs are refused where they are not finite: padding may not be infinite.
    assert np.isfinite(outputs).all()
    for window, length in enumerate(features.sequences.lengths):
        with torch.no_grad():
            alone = model(**features.sequences.batch(np.array([window])))
        for side, expected in enumerate((alone.start_logits, alone.end_logits)):
            np.testing.assert_allclose(outputs[window, side, :length], expected[0, :length].numpy(), atol=1e-4)
            assert (outputs[window, side, length:] < -1e3).all()


def test_models_without_segments() -> None:
    config = DistilBertConfig(vocab_size=len(TOKENIZER), dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    model: Any = DistilBertForQuestionAnswering(config).eval()
    features = made()
    assert np.isfinite(QuestionRecipe().outputs(model, features, 4)).all()
    assert torch.isfinite(loss_of(QuestionLoss(model, features, whole_order(features))))


def oracle(features: QuestionFeatures, sure: float = 9.0) -> np.ndarray:
    """Logits that point at the targets."""
    outputs = np.zeros((len(features), 2, int(features.sequences.lengths.max())), np.float32)
    for side in range(2):
        outputs[np.arange(len(features)), side, features.targets[:, side]] = sure
    return outputs


def test_scores_of_perfect_logits() -> None:
    features, whole = made(), task(ROWS)
    scores = QuestionRecipe().scores(oracle(features), features, whole.train, whole, SETTINGS)
    assert set(scores) == {"answer_f1", "exact_match"}
    for score in scores.values():
        assert (score.value, score.samples, score.unit) == (1.0, 3, "fraction")
    assert scores["answer_f1"].details == {
        "answerable_questions": 2, "answerable": 1.0, "unanswerable_questions": 1, "unanswerable": 1.0,
        "threshold": 0.0, "best": 1.0, "best_threshold": scores["answer_f1"].details["best_threshold"],
    }  # fmt: skip


def test_the_threshold_is_chosen_on_the_selecting_split_and_not_used() -> None:
    features, further = made(), Questions(list(ROWS))
    whole = task(ROWS)
    whole = task(ROWS, evaluation={"validation": whole.train, "further": further}, test=further)
    outputs = oracle(features)
    # "No answer" is 4 too likely everywhere: no question is answered, though all could be.
    outputs[:, :, 0] += 10.0
    scores = QuestionRecipe().scores(outputs, features, whole.evaluation["validation"], whole, SETTINGS)
    details = scores["answer_f1"].details
    assert scores["answer_f1"].value == pytest.approx(1 / 3)
    assert (details["threshold"], details["answerable"], details["unanswerable"]) == (0.0, 0.0, 1.0)
    assert details["best"] == 1.0
    assert details["best_threshold"] == pytest.approx(2.0)
    others = QuestionRecipe().scores(outputs, features, further, whole, SETTINGS)["answer_f1"]
    assert others.value == scores["answer_f1"].value
    assert "best" not in others.details


def test_where_all_questions_have_answers_one_is_always_given() -> None:
    rows = ROWS[:2]
    whole, features = task(rows, unanswerable=False), made(rows)
    outputs = oracle(features)
    outputs[:, :, 0] += 100.0
    score = QuestionRecipe().scores(outputs, features, whole.train, whole, SETTINGS)["exact_match"]
    assert (score.value, score.details) == (1.0, {})


def test_logits_that_are_no_numbers_are_an_error() -> None:
    features, whole = made(), task(ROWS)
    outputs = oracle(features)
    outputs[0, 0, 3] = np.nan
    with pytest.raises(DivergedError, match="places are not finite; lower the learning rate"):
        QuestionRecipe().scores(outputs, features, whole.train, whole, SETTINGS)


def test_answers_that_cannot_be_learnt_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made([question(TEXT, TEXT), ROWS[1]])
    assert "places: 1 of 2 answers are whole in no window" in caplog.text
