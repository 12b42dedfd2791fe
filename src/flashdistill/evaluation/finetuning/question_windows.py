"""Questions beside overlapping windows of their contexts, as BERT reads them (Devlin et al. 2019, §4.2-4.3).

A window is ``[CLS] question [SEP] part of the context [SEP]`` in whatever form the tokenizer
writes pairs. Neighbouring windows of one context share tokens, so that an answer at the edge of
one is whole in the other.

Shapes: Q questions, W windows, T tokens of all windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.task import Question
from flashdistill.data.tokenizer import PairTemplate
from flashdistill.evaluation.finetuning.kinds import Features
from flashdistill.evaluation.finetuning.question_tokens import TokenisedTexts, tokenised
from flashdistill.evaluation.finetuning.sequences import Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LEAST_CONTEXT = 8
"""Tokens of context that must fit beside the longest question."""

NULL = 0
"""The position that stands for "no answer in this window": the first token, [CLS]."""

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Layout:
    """Which part of which context a window shows. The windows of a question lie together and in order.

    Attributes:
        question: [W], number of a window's question.
        first, length: [W], tokens of the context.
        owned: [W, 2], the stretch ``from:to`` of the window's context tokens, counted in the
            window, that have more context here than in a neighbouring window. Answers begin at
            owned tokens only, so that none is proposed twice.
    """

    question: Ints
    first: Ints
    length: Ints
    owned: Ints


@dataclass(frozen=True)
class QuestionFeatures(Features):
    """All windows of some questions.

    Attributes:
        sequences: W windows.
        windows: where they lie in the contexts.
        begins: [W], position of the first context token in the sequence.
        targets: [W, 2], positions of the first and the last token of the question's first
            answer; both `NULL` where the window does not hold it.
        contexts: each distinct context, with the places of its tokens.
        context_of: [Q], number of a question's context.
        unreachable: questions with an answer that is whole in no window.
    """

    windows: Layout
    begins: Ints
    targets: Ints
    contexts: TokenisedTexts
    context_of: npt.NDArray[np.int64]
    unreachable: int


def question_features(
    rows: Sequence[Question],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    document_stride: int,
    max_query_length: int,
) -> QuestionFeatures:
    """Tokenise questions and contexts, each distinct context once, and lay windows over these.

    Args:
        max_length: tokens of a window with its question and the special tokens.
        document_stride: tokens that neighbouring windows share, but no more than half of what
            the context has room for.
        max_query_length: longer questions lose their last tokens.

    Raises:
        InputError: there is no room for a context beside the questions.
    """
    numbers: dict[str, int] = {}
    context_of = np.array([numbers.setdefault(row.context, len(numbers)) for row in rows], dtype=np.int64)
    template = PairTemplate.of(tokenizer)
    questions = tokenised([row.question for row in rows], tokenizer, offsets=False).shortened(max_query_length)
    room = max_length - template.num_special_tokens - questions.lengths
    if len(rows) and room.min() < LEAST_CONTEXT:
        raise InputError(
            f"max_length: {max_length} tokens leave {max(int(room.min()), 0)} for the context beside a question of "
            f"{questions.lengths.max()} and {template.num_special_tokens} special tokens; raise max_length (384 is "
            "usual) or lower max_query_length"
        )
    contexts = tokenised(list(numbers), tokenizer, offsets=True)
    pad: int = tokenizer.pad_token_id or 0  # type: ignore[assignment]
    windows = lay_windows(contexts.lengths[context_of], room, document_stride)
    before = len(template.prefix) + len(template.middle)
    begins = (before + questions.lengths[windows.question]).astype(np.int32)
    targets, unreachable = _targets(rows, contexts, context_of, windows)
    return QuestionFeatures(
        sequences=_sequences(questions, contexts, context_of, windows, template, pad, max_length),
        windows=windows,
        begins=begins,
        targets=np.where(targets < 0, NULL, targets + begins[:, None]).astype(np.int32),
        contexts=contexts,
        context_of=context_of,
        unreachable=unreachable,
    )


def lay_windows(tokens: np.ndarray, room: np.ndarray, stride: int) -> Layout:
    """The windows of all questions.

    Args:
        tokens: [Q] of the contexts.
        room: [Q] tokens of context that a window holds.
        stride: see `question_features`.
    """
    step = room - np.minimum(stride, room // 2)
    further = np.maximum(-(-(tokens - room) // step), 0)
    question = np.repeat(np.arange(len(tokens)), further + 1)
    number = np.arange(len(question)) - (np.cumsum(further + 1) - further - 1)[question]
    first = number * step[question]
    length = np.minimum(room[question], tokens[question] - first)
    owned = np.stack([np.zeros_like(first), length], axis=1)
    # No token is in more than two windows, since these share half of their room at most. In the
    # earlier one a shared token has the less context behind it the later it comes, in the later
    # one before it: the balance tips in the middle of the shared stretch.
    earlier = np.flatnonzero(question[1:] == question[:-1])
    shared = first[earlier] + length[earlier] - first[earlier + 1]
    owned[earlier, 1] = length[earlier] - shared // 2
    owned[earlier + 1, 0] = (shared + 1) // 2
    return Layout(*(array.astype(np.int32) for array in (question, first, length, owned)))


def _sequences(
    questions: TokenisedTexts,
    contexts: TokenisedTexts,
    context_of: np.ndarray,
    windows: Layout,
    template: PairTemplate,
    pad_token_id: int,
    max_length: int,
) -> Sequences:
    prefix, middle, suffix = (np.array(part, np.int32) for part in (template.prefix, template.middle, template.suffix))
    sizes = template.num_special_tokens + questions.lengths[windows.question] + windows.length
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    tokens = np.empty(offsets[-1], dtype=np.int32)
    segments = np.full(offsets[-1], template.first_type, dtype=np.int8)
    places = zip(windows.question, windows.first, windows.length, offsets[:-1], offsets[1:], strict=True)
    for question, first, length, begin, end in places:
        part = contexts.of(int(context_of[question]))[first : first + length]
        np.concatenate([prefix, questions.of(question), middle, part, suffix], out=tokens[begin:end])
        segments[end - len(suffix) - length : end] = template.second_type
    return Sequences(tokens, segments, offsets, pad_token_id, max_length)


def _targets(
    rows: Sequence[Question], contexts: TokenisedTexts, context_of: np.ndarray, windows: Layout
) -> tuple[np.ndarray, int]:
    """First and last answer token in each window, [W, 2], -1 where it is not whole; and how many answers never are."""
    spans = np.full((len(rows), 2), -1, dtype=np.int64)
    for index, row in enumerate(rows):
        if row.answers:
            answer = row.answers[0]
            covered = contexts.covering(context_of[index], answer.start, answer.start + len(answer.text))
            spans[index] = covered or (-1, -1)
    span = spans[windows.question]
    inside = (span[:, 0] >= windows.first) & (span[:, 1] < windows.first + windows.length)
    reached = np.zeros(len(rows), dtype=bool)
    reached[windows.question[inside]] = True
    answered = np.array([bool(row.answers) for row in rows], dtype=bool)
    return np.where(inside[:, None], span - windows.first[:, None], -1), int((answered & ~reached).sum())
