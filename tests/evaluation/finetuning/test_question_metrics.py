from __future__ import annotations

import numpy as np
import pytest

from flashdistill.data.tasks.task import Answer, Question
from flashdistill.evaluation.finetuning.metrics import measure
from flashdistill.evaluation.finetuning.question_metrics import (
    AnswerScores,
    best_threshold,
    exact_match,
    f1,
    normalised,
)


def asked(*answers: str, context: str = "c") -> Question:
    return Question("q", "?", context, tuple(Answer(text, 0) for text in answers))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  quick\tbrown\n fox ", "quick brown fox"),
        ("a man, a plan: THE canal!", "man plan canal"),
        ("The anthem of an ant", "anthem of ant"),  # articles are whole words
        ("Theatre-goers", "theatregoers"),  # a hyphen goes, and leaves no space
        ("$1,000.50", "100050"),
        ("the_end", "theend"),  # punctuation goes before articles are looked for
        ("Beyoncé’s “Déjà Vu”", "beyoncé’s “déjà vu”"),  # only ASCII punctuation goes, accents stay
        ("ÉCOLE", "école"),
        ("a", ""),
        ("The !", ""),
        ("", ""),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [
        ("the cat sat on the mat", "cat sat mat", 2 * 3 / (4 + 3)),
        ("to to to be", "to be to", 2 * 3 / (4 + 3)),  # "to" counts twice, as often as both have it
        ("to", "to to to", 2 * 1 / (1 + 3)),
        ("The Cat.", "cat", 1.0),
        ("dog", "cat", 0.0),
        ("", "", 1.0),
        ("the", "", 1.0),
        ("cat", "", 0.0),
        ("", "cat", 0.0),
    ],
)
def test_f1(predicted: str, reference: str, expected: float) -> None:
    assert f1(predicted, reference) == pytest.approx(expected)
    assert f1(reference, predicted) == f1(predicted, reference)


def test_exact_match() -> None:
    assert exact_match("The Eiffel Tower.", "eiffel tower") == 1
    assert exact_match("Eiffel", "eiffel tower") == 0
    assert exact_match("", "") == 1
    assert exact_match("tower eiffel", "eiffel tower") == 0


def test_the_best_reference_counts() -> None:
    scores = AnswerScores.of("answer_f1", ["big red dog"], [asked("dog", "a red dog", "cat")])
    assert scores.values == pytest.approx([2 * 2 / (3 + 2)])
    # References without words are left out, unless there are no others.
    assert AnswerScores.of("answer_f1", [""], [asked("the", "dog")]).values == [0]
    assert AnswerScores.of("exact_match", ["an"], [asked("the")]).values == [1]


def test_breakdown_of_questions_with_and_without_answers() -> None:
    questions = [asked("dog"), asked("cat"), asked("old cat"), asked(), asked()]
    scores = AnswerScores.of("answer_f1", ["dog", "", "cat", "", "dog"], questions)
    assert scores.values == pytest.approx([1, 0, 2 / 3, 1, 0])
    assert scores.breakdown == {
        "answerable_questions": 3,
        "answerable": pytest.approx(5 / 9),
        "unanswerable_questions": 2,
        "unanswerable": 0.5,
    }
    assert set(AnswerScores.of("answer_f1", ["dog"], [asked("dog")]).breakdown) == {
        "answerable_questions",
        "answerable",
    }


def test_standard_error_counts_contexts_not_questions() -> None:
    questions = [asked("dog", context=f"c{number // 2}") for number in range(8)]
    texts = ["dog", "dog", "cat", "cat", "dog", "dog", "cat", "cat"]
    measured = measure("exact_match", texts, questions)
    # Four contexts with 1, 0, 1, 0: their standard deviation is √(1/3).
    assert (measured.value, measured.stderr) == (0.5, pytest.approx(np.sqrt(1 / 3) / 2))
    assert (measured.unit, measured.samples) == ("fraction", 8)
    assert measure("answer_f1", ["dog"], [asked("dog")]).stderr is None


def test_best_threshold_by_hand() -> None:
    answered, refused = np.array([1.0, 0, 1, 1, 0]), np.array([0.0, 1, 0, 0, 1])
    best = best_threshold(answered, refused, np.array([-3.0, -1, 0, 2, 5]))
    assert (best.value, best.score) == (2.0, pytest.approx(4 / 5))


def test_a_threshold_cannot_tell_equal_differences_apart() -> None:
    best = best_threshold(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([3.0, 3.0]))
    assert best.score == 0.5


def test_best_threshold_may_refuse_all() -> None:
    differences = np.array([2.0, np.inf, -1.0])
    best = best_threshold(np.zeros(3), np.ones(3), differences)
    assert best.score == 1
    assert (differences > best.value).all()


def test_best_threshold_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        n = int(random.integers(1, 12))
        answered, refused = random.random(n), random.integers(0, 2, n).astype(float)
        differences = random.integers(-3, 4, n).astype(float)

        def score(threshold: float, a=answered, r=refused, d=differences) -> float:  # type: ignore[no-untyped-def]
            return float(np.where(d <= threshold, a, r).mean())

        best = best_threshold(answered, refused, differences)
        assert best.score == pytest.approx(score(best.value))
        assert best.score == pytest.approx(max(score(t) for t in [-4, *differences]))
