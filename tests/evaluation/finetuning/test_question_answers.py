from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from flashdistill.data.tasks.task import Question
from flashdistill.evaluation.finetuning.question_answers import Prediction, Span, predictions, write_predictions
from flashdistill.evaluation.finetuning.question_windows import QuestionFeatures, question_features
from tests.evaluation.finetuning.question_cases import TEXT, TOKENIZERS, question, wordpiece


def features(rows: list[Question], length: int = 60, tokenizer: str = "wordpiece") -> QuestionFeatures:
    return question_features(rows, TOKENIZERS[tokenizer](), max_length=length, document_stride=12, max_query_length=20)


def some_logits(made: QuestionFeatures, seed: int = 0) -> np.ndarray:
    shape = (len(made), 2, int(made.sequences.lengths.max()))
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pointing(made: QuestionFeatures, *spans: tuple[int, int, int, float]) -> np.ndarray:
    """Logits that are 0 but for ``(window, first, last, logit)``, tokens counted in the window."""
    logits = np.zeros((len(made), 2, int(made.sequences.lengths.max())), np.float32)
    for window, first, last, value in spans:
        begin = made.begins[window]
        logits[window, 0, begin + first], logits[window, 1, begin + last] = value, value
    return logits


def by_brute_force(row: Question, number: int, made: QuestionFeatures, logits: np.ndarray, longest: int) -> list:
    """(score, text) of all spans of a question, the best first."""
    spans = {}
    for window in np.flatnonzero(made.windows.question == number):
        begin, shown = made.begins[window], range(made.windows.length[window])
        for first in range(*made.windows.owned[window]):
            for last in shown[first : first + longest]:
                score = float(logits[window, 0, begin + first] + logits[window, 1, begin + last])
                place = made.windows.first[window] + first, made.windows.first[window] + last
                text = row.context[made.contexts.characters(made.context_of[number], *place)].strip()
                spans[text] = max(score, spans.get(text, -math.inf))
    return sorted(((score, text) for text, score in spans.items()), reverse=True)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_n_best_are_the_best_of_all_spans(tokenizer: str) -> None:
    rows = [question(TEXT), question("Short one.", text="Why?"), question(TEXT[:150], text="When was it?")]
    made = features(rows, tokenizer=tokenizer)
    logits = some_logits(made)
    found = predictions(rows, logits, made, n_best=5, max_answer_length=6)
    for number, (row, one) in enumerate(zip(rows, found, strict=True)):
        expected = by_brute_force(row, number, made, logits, 6)[:5]
        assert [span.text for span in one.n_best] == [text for _, text in expected]
        assert [span.score for span in one.n_best] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_an_answer_in_two_windows_is_proposed_by_the_one_with_more_context() -> None:
    rows = [question(TEXT)]
    made = features(rows)
    second = int(made.windows.first[1])
    # The first token of the second window, shared with the end of the first one.
    logits = pointing(made, (0, second, second, 5.0), (1, 0, 0, 9.0))
    best = predictions(rows, logits, made, n_best=3, max_answer_length=4)[0].n_best[0]
    assert best.score == 10.0
    assert best.text == TEXT[made.contexts.characters(0, second, second)]


def test_answers_do_not_run_backwards_nor_on_and_on() -> None:
    rows = [question("ab cd ef gh", text="ab")]
    made = features(rows)
    logits = pointing(made, (0, 3, 0, 9.0))
    # Nothing ends before it begins: the two high logits never meet.
    assert predictions(rows, logits, made, n_best=1, max_answer_length=8)[0].n_best[0].score == 9.0
    last = int(made.windows.length[0]) - 1
    logits = pointing(made, (0, 0, last, 9.0))
    assert predictions(rows, logits, made, n_best=1, max_answer_length=last + 1)[0].best == "ab cd ef gh"
    assert predictions(rows, logits, made, n_best=1, max_answer_length=last)[0].n_best[0].score == 9.0


def test_question_and_special_tokens_are_no_answers() -> None:
    rows = [question("ab cd", text="ef")]
    made = features(rows)
    logits = np.full((1, 2, int(made.sequences.lengths.max())), 50.0, np.float32)
    begin, length = int(made.begins[0]), int(made.windows.length[0])
    logits[:, :, begin : begin + length] = -50.0
    found = predictions(rows, logits, made, n_best=50, max_answer_length=50)[0]
    assert found.n_best
    assert {span.score for span in found.n_best} == {-100.0}
    assert found.null.score == 100.0


def test_no_answer_is_as_likely_as_in_the_least_sure_window() -> None:
    rows = [question(TEXT)]
    made = features(rows)
    logits = pointing(made, (1, 8, 8, 3.0))
    logits[:, :, 0] = 8.0
    logits[1, :, 0] = (1.0, 1.5)
    found = predictions(rows, logits, made, n_best=3, max_answer_length=4)[0]
    assert (found.null.start_logit, found.null.end_logit) == (1.0, 1.5)
    assert found.null_difference == 2.5 - 6.0
    assert found.text(0.0) == found.best != ""
    assert found.text(-3.5) == found.best
    assert found.text(-3.6) == ""
    logits[1, :, 0] = 4.0
    unsure = predictions(rows, logits, made, n_best=3, max_answer_length=4)[0]
    assert unsure.null_difference == 2.0
    assert unsure.text(0.0) == ""
    assert unsure.text(None) == unsure.best != ""


def test_a_context_without_tokens_has_no_answer() -> None:
    rows = [question("", id="empty"), question("ab", id="full")]
    made = question_features(rows, wordpiece(), max_length=40, document_stride=4, max_query_length=8)
    empty, full = predictions(rows, some_logits(made), made, n_best=3, max_answer_length=4)
    assert (empty.n_best, empty.best, empty.text(None), empty.text(0.0)) == ((), "", "", "")
    assert empty.null_difference == math.inf
    assert full.best


def test_files_in_the_official_forms(tmp_path: Path) -> None:
    found = [
        Prediction("sure", (Span("yes", 2.0, 1.0), Span("no", 0.0, 1.0)), Span("", 0.0, 0.0)),
        Prediction("unsure", (Span("été", 0.0, 0.0),), Span("", 1.0, 0.5)),
        Prediction("empty", (), Span("", 1.0, 0.5)),
    ]
    write_predictions(found, tmp_path, 0.0)
    read = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("predictions", "nbest", "null_odds")}
    assert read["predictions"] == {"sure": "yes", "unsure": "", "empty": ""}
    assert read["null_odds"] == {"sure": -3.0, "unsure": 1.5, "empty": pytest.approx(3.4e38, rel=0.01)}
    assert [entry["text"] for entry in read["nbest"]["sure"]] == ["yes", "no", ""]
    total = math.exp(3) + math.exp(1) + math.exp(0)
    assert read["nbest"]["sure"][1] == {
        "text": "no", "probability": pytest.approx(math.exp(1) / total), "start_logit": 0.0, "end_logit": 1.0,
    }  # fmt: skip
    assert [entry["text"] for entry in read["nbest"]["unsure"]] == ["", "été"]
    assert read["nbest"]["empty"] == [{"text": "", "probability": 1.0, "start_logit": 1.0, "end_logit": 0.5}]

    answered = tmp_path / "answered"
    write_predictions(found, answered, None)
    assert sorted(path.name for path in answered.iterdir()) == ["nbest.json", "predictions.json"]
    assert json.loads((answered / "predictions.json").read_text()) == {"sure": "yes", "unsure": "été", "empty": ""}
    assert [entry["text"] for entry in json.loads((answered / "nbest.json").read_text())["sure"]] == ["yes", "no"]
