"""From the logits of a question-answering head to answers in the text.

A span scores its start logit plus its end logit, "no answer" those of the first token
(Devlin et al. 2019, §4.2-4.3). All spans of a window are compared, not only those of its likeliest
starts and ends.

Shapes: Q questions, W windows, B windows of a batch, S tokens, C context tokens of the longest
window, L tokens of the longest answer, K candidates of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from flashdistill.core.files import write_json
from flashdistill.data.tasks.task import Question
from flashdistill.evaluation.finetuning.question_windows import NULL, QuestionFeatures

WINDOWS_AT_ONCE = 256
"""Of which all spans are compared together: some ten megabytes."""


@dataclass(frozen=True)
class Candidates:
    """The best spans of every window, the best first.

    Attributes:
        firsts, lasts: [W, K], tokens of the span, counted in the context.
        logits: [W, K, 2], of start and end; -inf where a window has fewer spans.
    """

    firsts: np.ndarray
    lasts: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Span:
    """A possible answer; the empty text is "no answer"."""

    text: str
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit


@dataclass(frozen=True)
class Prediction:
    """What a model says about a question.

    Attributes:
        n_best: distinct texts, the best first, "no answer" not among them; may be empty.
        null: "no answer", with the logits of the window that is least sure of it.
    """

    id: str
    n_best: tuple[Span, ...]
    null: Span

    @property
    def best(self) -> str:
        """The best answer, whatever speaks for giving none."""
        return self.n_best[0].text if self.n_best else ""

    @property
    def null_difference(self) -> float:
        """Score of "no answer" minus that of the best answer, in logits; inf without any."""
        return self.null.score - self.n_best[0].score if self.n_best else float("inf")

    def text(self, threshold: float | None) -> str:
        """The answer that is given: none where the null difference is above the threshold.

        Args:
            threshold: None: every question has an answer.
        """
        return self.best if threshold is None or self.null_difference <= threshold else ""


def window_candidates(
    logits: np.ndarray, features: QuestionFeatures, *, n_best: int, max_answer_length: int
) -> Candidates:
    """The ``n_best`` spans of each window that begin at a token it owns.

    Args:
        logits: [W, 2, S], start and end.
        max_answer_length: in tokens.
    """
    shape = (len(features), n_best)
    found = Candidates(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.full((*shape, 2), -np.inf, np.float32))
    for begin in range(0, len(features), WINDOWS_AT_ONCE):
        some = slice(begin, begin + WINDOWS_AT_ONCE)
        firsts, lasts, scores = _best_spans(logits[some], features, some, n_best, max_answer_length)
        columns = slice(firsts.shape[1])
        first = features.windows.first[some, None]
        found.firsts[some, columns], found.lasts[some, columns] = firsts + first, lasts + first
        found.logits[some, columns] = scores
    return found


def _best_spans(
    logits: np.ndarray, features: QuestionFeatures, some: slice, n_best: int, max_answer_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last context token in the window, [B, K], and both logits, [B, K, 2]."""
    lengths, owned = features.windows.length[some, None], features.windows.owned[some]
    width = max(int(lengths.max()), 1)
    longest = min(max_answer_length, width)
    place = np.arange(width)[None]
    position = np.minimum(features.begins[some, None] + place, logits.shape[2] - 1)
    own = (place >= owned[:, :1]) & (place < owned[:, 1:])
    starts = np.where(own, np.take_along_axis(logits[:, 0], position, 1), -np.inf)  # [B, C]
    ends = np.where(place < lengths, np.take_along_axis(logits[:, 1], position, 1), -np.inf)
    starts, ends = (torch.from_numpy(values.astype(np.float32)) for values in (starts, ends))
    # [B, C, L]: the end logits of the spans of 1 to L tokens from each start.
    reachable = F.pad(ends, (0, longest - 1), value=-torch.inf).unfold(1, longest, 1)
    scores = (starts[:, :, None] + reachable).flatten(1)
    best, chosen = scores.topk(min(n_best, scores.shape[1]))
    firsts = chosen // longest
    # Spans that would end behind the window score -inf and are only made harmless here.
    lasts = (firsts + chosen % longest).clamp_max(width - 1)
    pairs = torch.stack([starts.gather(1, firsts), ends.gather(1, lasts)], -1)
    pairs.masked_fill_((best == -torch.inf)[:, :, None], -torch.inf)
    return firsts.numpy(), lasts.numpy(), pairs.numpy()


def predictions(
    rows: Sequence[Question], logits: np.ndarray, features: QuestionFeatures, *, n_best: int, max_answer_length: int
) -> list[Prediction]:
    """The answers to all questions, from all their windows.

    Args:
        rows: those that the features were made of.
        logits: [W, 2, S], start and end.
        max_answer_length: in tokens.
    """
    candidates = window_candidates(logits, features, n_best=n_best, max_answer_length=max_answer_length)
    nulls = logits[:, :, NULL]
    bounds = np.searchsorted(features.windows.question, np.arange(len(rows) + 1))
    found = []
    for number, (row, begin, end) in enumerate(zip(rows, bounds[:-1], bounds[1:], strict=True)):
        least = begin + int(np.argmin(nulls[begin:end].sum(1)))
        spans = _distinct(row.context, number, slice(begin, end), features, candidates, n_best)
        found.append(Prediction(row.id, spans, Span("", float(nulls[least, 0]), float(nulls[least, 1]))))
    return found


def _distinct(
    text: str, number: int, windows: slice, features: QuestionFeatures, candidates: Candidates, n_best: int
) -> tuple[Span, ...]:
    """The best spans of a question with different texts."""
    logits = candidates.logits[windows].reshape(-1, 2)
    firsts, lasts = candidates.firsts[windows].ravel(), candidates.lasts[windows].ravel()
    scores = logits.sum(1)
    spans: dict[str, Span] = {}
    for index in np.argsort(-scores, kind="stable"):
        if len(spans) == n_best or scores[index] == -np.inf:
            break
        place = features.contexts.characters(int(features.context_of[number]), int(firsts[index]), int(lasts[index]))
        # Some tokenizers count the space before a word to it.
        answer = text[place].strip()
        if answer and answer not in spans:
            spans[answer] = Span(answer, float(logits[index, 0]), float(logits[index, 1]))
    return tuple(spans.values())


def write_predictions(found: Sequence[Prediction], directory: Path, threshold: float | None) -> None:
    """Write answers in the forms that SQuAD's official evaluation and BERT's own code have.

    ``predictions.json``: question id → text; ``nbest.json``: id → the best texts with probability
    (over this list), start and end logit; and, where questions may have no answer,
    ``null_odds.json``: id → null difference.

    Args:
        threshold: of the null difference; None: every question has an answer.
    """
    write_json(directory / "predictions.json", {one.id: one.text(threshold) for one in found})
    write_json(directory / "nbest.json", {one.id: _ranked(one, threshold is not None) for one in found})
    if threshold is not None:
        # JSON has no infinity: a context without tokens is as unanswerable as a number can say.
        largest = float(np.finfo(np.float32).max)
        write_json(directory / "null_odds.json", {one.id: min(one.null_difference, largest) for one in found})


def _ranked(found: Prediction, with_null: bool) -> list[dict[str, str | float]]:
    spans = list(found.n_best)
    if with_null or not spans:
        spans = sorted([*spans, found.null], key=lambda span: -span.score)
    scores = np.array([span.score for span in spans])
    odds = np.exp(scores - scores.max())
    return [
        {"text": span.text, "probability": float(odd), "start_logit": span.start_logit, "end_logit": span.end_logit}
        for span, odd in zip(spans, odds / odds.sum(), strict=True)
    ]
