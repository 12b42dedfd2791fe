"""Exact match and F1 of extracted answers, as SQuAD's official evaluation defines them.

Rajpurkar et al. 2016, §6.1, and for questions without an answer Rajpurkar et al. 2018, §5.
Answers are compared as bags of words after `normalised`; of several references the best counts.

Shapes: Q questions.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashdistill.data.tasks.task import Question
from flashdistill.evaluation.finetuning.metrics import Scored
from flashdistill.evaluation.pretraining_accuracy import RatioOfSums

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """The text in lower case, without ASCII punctuation and English articles, words one space apart."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(predicted: str, reference: str) -> float:
    """1.0 if both texts are the same once normalised, else 0.0."""
    return float(normalised(predicted) == normalised(reference))


def f1(predicted: str, reference: str) -> float:
    """Harmonic mean of the precision and recall of the normalised words, each as often as it occurs.

    Where either has no words, 1.0 if both have none, else 0.0 (the rule of v2.0, under which F1 is
    never below exact match).
    """
    own, true = normalised(predicted).split(), normalised(reference).split()
    if not own or not true:
        return float(own == true)
    common = (Counter(own) & Counter(true)).total()
    return 2 * common / (len(own) + len(true))


def references(question: Question) -> list[str]:
    """What counts as right: the answers that have words; the empty text where none has."""
    return [answer.text for answer in question.answers if normalised(answer.text)] or [""]


@dataclass(frozen=True)
class AnswerScores:
    """The scores of one answer to each question; the empty text means "no answer".

    Attributes:
        values: [Q], 0 to 1.
        answerable: [Q], True where the context answers the question.
        contexts: [Q], the number of each question's context.
    """

    values: np.ndarray
    answerable: np.ndarray
    contexts: np.ndarray

    @classmethod
    def of(cls, metric: str, predicted: Sequence[str], questions: Sequence[Question]) -> AnswerScores:
        """Compare with the references by ``answer_f1`` or ``exact_match``."""
        compare = _COMPARISONS[metric]
        numbers: dict[str, int] = {}
        return cls(
            np.array(
                [
                    max(compare(text, true) for true in references(q))
                    for text, q in zip(predicted, questions, strict=True)
                ]
            ),
            np.array([bool(question.answers) for question in questions], dtype=bool),
            np.array([numbers.setdefault(question.context, len(numbers)) for question in questions], dtype=np.int64),
        )

    @property
    def mean(self) -> Scored:
        """Over all questions; the standard error is over contexts, whose questions go together."""
        ratio, num_contexts = RatioOfSums(), int(self.contexts.max()) + 1
        ratio.add(self.values, self.contexts, num_contexts)
        measurement = ratio.measurement("")
        return measurement.value, measurement.stderr if num_contexts > 1 else None

    @property
    def breakdown(self) -> dict[str, float | int]:
        """The number of questions with an answer and of those without, and the mean over each."""
        result: dict[str, float | int] = {}
        for name, chosen in (("answerable", self.answerable), ("unanswerable", ~self.answerable)):
            if chosen.any():
                result |= {f"{name}_questions": int(chosen.sum()), name: float(self.values[chosen].mean())}
        return result


_COMPARISONS = {"answer_f1": f1, "exact_match": exact_match}


def mean_f1(predicted: Sequence[str], questions: Sequence[Question]) -> Scored:
    """Mean F1 of one answer to each question, and its standard error."""
    return AnswerScores.of("answer_f1", predicted, questions).mean


def mean_exact_match(predicted: Sequence[str], questions: Sequence[Question]) -> Scored:
    """Share of questions answered in the words of a reference, and its standard error."""
    return AnswerScores.of("exact_match", predicted, questions).mean


@dataclass(frozen=True)
class Threshold:
    """Questions whose null difference is above ``value`` are best left unanswered.

    Attributes:
        score: the mean score on the questions by which the value was chosen: an optimistic one.
    """

    value: float
    score: float


def best_threshold(answered: np.ndarray, refused: np.ndarray, null_difference: np.ndarray) -> Threshold:
    """The threshold with the highest mean score (``best_f1`` and ``best_exact`` of the official evaluation).

    Args:
        answered: [Q], the score of a question if its best answer is given.
        refused: [Q], its score if none is given.
        null_difference: [Q], the score of "no answer" minus that of the best answer, in logits.
    """
    order = np.argsort(null_difference, kind="stable")
    ordered = null_difference[order]
    totals = refused.sum() + np.concatenate([[0.0], np.cumsum((answered - refused)[order])])
    # A threshold cannot tell equal differences apart: only the ends of their groups can be had.
    possible = np.concatenate([[True], np.append(ordered[1:] != ordered[:-1], True)])
    best = int(np.argmax(np.where(possible, totals, -np.inf)))
    value = float(ordered[best - 1]) if best else float(ordered[0]) - 1.0
    return Threshold(value, float(totals[best] / len(ordered)))
