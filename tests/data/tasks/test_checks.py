from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.checks import check_rows, check_splits, split_notes
from flashdistill.data.tasks.parts import Part, RawTask
from flashdistill.data.tasks.task import Answer, Question, Questions, Sentences


def sentences(labels: list[int] | list[float], texts: list[str] | None = None, origin: str = "train.csv") -> Part:
    values = np.array(labels, dtype=np.float32 if isinstance(labels[0], float) else np.int64)
    rows = Sentences(texts or [f"{origin} {row}" for row in range(len(labels))], None, values)
    return Part(rows, origin, range(2, len(labels) + 2))


def task(train: Part, validation: Part, **changes: object) -> RawTask:
    raw = RawTask(
        "mine", "classification", train, ("accuracy",), "files", {"validation": validation}, labels=("a", "b", "c")
    )
    return replace(raw, **{"public": False, **changes})  # type: ignore[arg-type]


TRAIN = sentences([0, 1] * 5)
VALIDATION = sentences([0, 1], origin="validation.csv")


def question(
    identifier: str = "q1", *answers: Answer, context: str = "Rain falls in May.", ask: str = "When?"
) -> Question:
    return Question(identifier, ask, context, answers)


def questions(*rows: Question) -> RawTask:
    part = Part(Questions(list(rows)), "train.json", range(len(rows)), lines=False)
    return replace(task(part, part), kind="question-answering")


def test_good_rows_have_no_notes() -> None:
    raw = task(TRAIN, VALIDATION)
    assert check_rows(raw) == []
    check_splits(raw)
    assert split_notes(raw) == []


def test_an_empty_text_is_named_by_its_row() -> None:
    empty = sentences([0, 1, 0], ["one", " ", ""], "validation.csv")
    with pytest.raises(InputError, match=r"^validation.csv:3: the text is empty \(2 such rows\)"):
        check_rows(task(TRAIN, empty))
    pair = Part(Sentences(["a", "b"], ["c", ""], np.array([0, 1])), "p.csv", [2, 9])
    with pytest.raises(InputError, match="^p.csv:9: the second text is empty; fill"):
        check_rows(task(pair, VALIDATION))


def test_an_empty_text_of_published_data_is_noted() -> None:
    empty = sentences([0, 1], ["one", ""], "dev.tsv")
    assert check_rows(task(TRAIN, empty, public=True)) == ["dev.tsv: 1 rows with an empty text, kept (dev.tsv:3)"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_are_finite(value: float) -> None:
    with pytest.raises(InputError, match=f"train.csv:3: the value is {value}"):
        check_rows(task(sentences([0.5, value]), VALIDATION, kind="regression"))


def test_rows_and_labels_are_there() -> None:
    none = Part(Sentences([], None, np.array([], dtype=np.int64)), "empty.csv", [])
    with pytest.raises(InputError, match="empty.csv: no rows"):
        check_rows(task(TRAIN, none))
    unlabelled = Part(Sentences(["a"], None, None), "test.csv", [2])
    with pytest.raises(InputError, match="test.csv: the rows have no labels"):
        check_rows(task(TRAIN, unlabelled))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (task(sentences([1] * 9), VALIDATION), "all 9 train rows .* have the class 'b'"),
        (task(TRAIN, sentences([0, 1, 2], origin="v.csv")), "v.csv:4: no train row has the class 'c'"),
        (task(sentences([0, 1, 0]), VALIDATION), "3 train rows .*, at least 8"),
        (task(TRAIN, sentences([0], origin="v.csv")), r"1 validation rows \(v.csv\), at least 2"),
        (task(sentences([2.5] * 9), VALIDATION, kind="regression"), "all 9 train rows .* have the value 2.5"),
        (
            task(sentences([1.0, 2.0] * 5), sentences([3.0, 3.0], origin="v.csv"), kind="regression"),
            "all 2 validation rows",
        ),
    ],
)
def test_splits_that_cannot_be_learned_or_judged(raw: RawTask, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_splits(raw)


def test_rows_on_both_sides_are_noted() -> None:
    leaking = sentences([0, 1, 1], ["train.csv 0", "train.csv 4", "new"], "v.csv")
    assert split_notes(task(TRAIN, leaking)) == [
        "2 of 3 validation rows are also train rows; scores on them say less",
    ]


def test_contradictions_and_single_classes_are_noted() -> None:
    train = sentences([0, 1, 0, 0], ["same", "same", "twice", "twice"])
    assert split_notes(task(train, sentences([1, 1], origin="v.csv"))) == [
        "all 2 validation rows have the class 'b'",
        "1 train texts occur with different labels",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([question("q1", Answer("May", 14)), question("q1", Answer("May", 14))], "row 1 .*'q1'.* the id occurs twice"),
        ([question()], r"train.json, row 0 \(id 'q1'\): no answer"),
        ([question("q1", Answer("May", 13))], "the context has no 'May' at 13"),
        ([question("q1", Answer("May.", -4))], "the context has no 'May.' at -4"),
        ([question("q1", Answer("", 3))], "an answer is empty"),
        ([question("q1", Answer("May", 14), ask=" ")], "the question is empty"),
    ],
)
def test_questions(rows: list[Question], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_rows(questions(*rows))


def test_questions_without_an_answer_may_be_meant() -> None:
    assert check_rows(replace(questions(question()), unanswerable=True)) == []
