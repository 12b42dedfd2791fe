"""Extractive cloze questions about plain text: a fact is blanked where it is told a second time.

Hermann et al. (2015) blank entities of an article's summary, Lewis et al. (2019) those of a
sentence of the context itself. Here the question is the sentence after the context, so the answer
is told in the context in other words, if it is told there at all; the rules below keep the questions
for which that is likely. Names and numbers are found by their form alone, without a tagger.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flashdistill.data.tasks.task import Answer, Question

BLANK = "_"
"""Stands for what is asked for."""

CONTEXT_SENTENCES = 4
MIN_SHARED_WORDS = 2
"""Content words that a question must share with its context: it has to be about the same thing."""

MIN_CANDIDATES = 3
"""Different names, or numbers, in a context that could be the answer: with fewer, any guess is good."""

MAX_ANSWER_WORDS = 5
COMMON_SHARE = 0.3
"""Words found in more than this share of all articles are no content words."""

_UPPER = "A-ZÀ-ÖØ-Þ"
_CAPITALISED = rf"(?:[{_UPPER}]\.(?=\s[{_UPPER}])|[{_UPPER}][\w’'-]*\w)"
_LINK = r"(?:of|of the|de|de la|del|la|von|van|der|di|du|da|al|bin|ibn)"
_NAME = re.compile(rf"(?<![\w’'.-]){_CAPITALISED}(?:\s(?:{_LINK}\s)?{_CAPITALISED})*")
_NUMBER = re.compile(r"(?<![\w.,/:–-])\d[\d,]*\d(?:\.\d+)?%?(?![\w/:–-]|[.,]\d)")
_POSSESSIVE = re.compile(r"[’']s?$")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Span:
    """A name or a number, and where it begins in its sentence."""

    text: str
    start: int
    kind: Literal["name", "number"]


def spans(sentence: str, ordinary: Collection[str] = ()) -> list[Span]:
    """The names and the numbers of at least two digits in a sentence, in their order.

    A name is a sequence of capitalised words, perhaps with small words such as "of" between them. The
    capital with which every sentence begins says nothing where the word is one of ``ordinary``.

    Args:
        ordinary: words that the article has in lower case, too.
    """
    found = [Span(match.group(), match.start(), "number") for match in _NUMBER.finditer(sentence)]
    for match in _NAME.finditer(sentence):
        text, start = match.group(), match.start()
        if not sentence[:start].strip(" \"'“‘«(["):
            first, _, rest = text.partition(" ")
            if first.lower() in ordinary:
                text, start = rest, start + len(first) + 1
        text = _POSSESSIVE.sub("", text)
        if len(text) > 2 and len(text.split()) <= MAX_ANSWER_WORDS and text.split()[0] not in _NEVER_FIRST:
            found.append(Span(text, start, "name"))
    return sorted(found, key=lambda span: span.start)


_NEVER_FIRST = frozenset(["of", "the", "de", "la", "von", "van", "der", "di", "du", "da", "al", "bin", "ibn"])


def words(text: str) -> list[str]:
    """Words and numbers in lower case."""
    return _WORD.findall(text.lower())


def common_words(articles: Sequence[Sequence[str]]) -> frozenset[str]:
    """Words that many articles, given as sentences, have: those that say nothing of what a sentence is about."""
    counts = Counter(word for sentences in articles for word in {one for text in sentences for one in words(text)})
    return frozenset(word for word, count in counts.items() if count > COMMON_SHARE * len(articles))


def cloze_questions(
    article: str,
    sentences: Sequence[str],
    common: Collection[str],
    usable: Collection[int],
    random: np.random.Generator,
) -> Iterator[Question]:
    """At most one question for each sentence that has enough usable sentences before it.

    Args:
        article: begins the questions' ids.
        common: see `common_words`.
        usable: rows of ``sentences`` that may be shown.
        random: which one of several possible answers is blanked.
    """
    ordinary = {word for text in sentences for word in _WORD.findall(text) if word.islower()}
    by_row = [spans(text, ordinary) for text in sentences]
    for row, side in ((row, side) for row in range(len(sentences)) for side in ("before", "after")):
        first = row - CONTEXT_SENTENCES if side == "before" else row + 1
        shown = range(first, first + CONTEXT_SENTENCES)
        if not all(one in usable for one in (row, *shown)):
            continue
        told = {word for one in shown for word in words(sentences[one])}
        candidates = [span for one in shown for span in by_row[one]]
        possible = [span for span in by_row[row] if _answerable(span, sentences[row], told, common, candidates)]
        if possible:
            span = possible[int(random.integers(len(possible)))]
            context, answers = _told(span.text, [sentences[one] for one in shown], [by_row[one] for one in shown])
            yield Question(f"{article}-{row}-{side}", _blanked(sentences[row], span), context, answers)


def _answerable(
    span: Span, sentence: str, told: Collection[str], common: Collection[str], candidates: Sequence[Span]
) -> bool:
    """Whether the context has this very span among others of its kind, and the rest of the
    sentence is about what the context is about without giving the answer away."""
    texts = {one.text for one in candidates if one.kind == span.kind}
    rest, own = set(words(_blanked(sentence, span))), set(words(span.text))
    if span.text not in texts or len(texts) < MIN_CANDIDATES or own & rest - _NEVER_FIRST:
        return False
    return sum(word in told for word in rest if word not in common) >= MIN_SHARED_WORDS


def _blanked(sentence: str, span: Span) -> str:
    return sentence[: span.start] + BLANK + sentence[span.start + len(span.text) :]


def _told(text: str, sentences: Sequence[str], found: Sequence[Sequence[Span]]) -> tuple[str, tuple[Answer, ...]]:
    """The context, and every place where the answer stands in it."""
    begin, answers = 0, []
    for sentence, own in zip(sentences, found, strict=True):
        answers += [Answer(text, begin + span.start) for span in own if span.text == text]
        begin += len(sentence) + 1
    return " ".join(sentences), tuple(answers)
