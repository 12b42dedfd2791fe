"""BERT's sentence pairs, planned for a whole epoch as a few integers per pair.

Follows the data recipe of Devlin et al. 2019, section A.2, with three differences. Whether a
sequence is short is drawn per sequence and not per document, so that long documents do not
become short as a whole. A pair is packed from at least two sentences wherever the document has
them, so that long sentences do not raise the share of random pairs. A random second segment
starts where enough text follows to fill the sequence, which avoids padding.

Shapes: U units (sentences or pieces of overlong ones), D documents, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flashdistill.data.split import Ranges

Ints = npt.NDArray[np.integer]
Offsets = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PairPlan:
    """Where the two segments of every pair lie in the corpus's tokens.

    Attributes:
        first_start, second_start: [P] int64 token indices.
        first_length, second_length: [P] int32, both at least 1, together at most the length
            that was planned for.
        is_random: [P] whether the second segment comes from elsewhere.
    """

    first_start: Offsets
    first_length: npt.NDArray[np.int32]
    second_start: Offsets
    second_length: npt.NDArray[np.int32]
    is_random: Flags

    def __len__(self) -> int:
        return len(self.is_random)


@dataclass(frozen=True)
class Units:
    """What pairs are packed from: the sentences, with overlong ones in pieces.

    Attributes:
        offsets: [U + 1] token index where each unit starts.
        documents: [D, 2] unit ranges.
    """

    offsets: Offsets
    documents: Ranges


def make_units(sentence_offsets: Offsets, documents: Ranges, max_tokens: int) -> Units:
    """Cut sentences of more than ``max_tokens`` tokens into pieces of half of it.

    So a pair can be made of one sentence, and hardly a token of a text without punctuation is lost.
    """
    lengths = np.diff(sentence_offsets)
    overlong = np.flatnonzero(lengths > max_tokens)
    if not len(overlong):
        return Units(sentence_offsets, documents)
    half = (max_tokens + 1) // 2
    cuts = [np.arange(sentence_offsets[index] + half, sentence_offsets[index + 1], half) for index in overlong]
    offsets = np.sort(np.concatenate([sentence_offsets, *cuts]))
    return Units(offsets, np.searchsorted(offsets, sentence_offsets[documents]))


def plan_pairs(units: Units, max_tokens: int, short_fraction: float, random: np.random.Generator) -> PairPlan:
    """Pack every document into pairs, front to back.

    A pair takes sentences until the wanted length is reached, divides them at a random
    sentence, and with probability one half exchanges the second part for a random place of
    another document; the exchanged sentences are used by the next pair. What exceeds
    ``max_tokens`` is taken from the longer segment, at its front or back at random.

    All documents advance together, one pair each per round, so that the work is done on arrays.

    Args:
        max_tokens: longest pair, special tokens not counted.
        short_fraction: share of sequences whose wanted length is uniform in 2 … ``max_tokens``.
    """
    offsets, documents = units.offsets, units.documents
    position = documents[:, 0].copy()
    active = np.arange(len(documents))
    rounds: list[tuple[Offsets, Offsets, Offsets, Offsets, Flags]] = []
    while len(active):
        begin, end = position[active], documents[active, 1]
        count = len(active)
        short = random.random(count) < short_fraction
        wanted = np.where(short, random.integers(2, max_tokens + 1, count), max_tokens)
        stop = np.searchsorted(offsets, offsets[begin] + wanted)
        stop = np.minimum(np.maximum(stop, begin + 2), end)
        middle = begin + 1 + (random.random(count) * np.maximum(stop - begin - 1, 0)).astype(np.int64)
        is_random = (random.random(count) < 0.5) | (stop - begin == 1)
        rest = np.maximum(wanted - (offsets[middle] - offsets[begin]), 1)
        other_begin, other_end = _elsewhere(units, active, stop, rest, random)
        rounds.append(
            (
                offsets[begin],
                offsets[middle],
                offsets[np.where(is_random, other_begin, middle)],
                offsets[np.where(is_random, other_end, stop)],
                is_random,
            )
        )
        position[active] = np.where(is_random, middle, stop)
        active = active[position[active] < end]
    columns = [np.concatenate(column) for column in zip(*rounds, strict=True)]
    return _truncated(*columns, max_tokens=max_tokens, random=random)


def _elsewhere(
    units: Units, own: Offsets, stop: Offsets, rest: Offsets, random: np.random.Generator
) -> tuple[Offsets, Offsets]:
    """Unit ranges of about ``rest`` tokens from other documents than ``own``.

    Where there is only one document, they start at least a quarter of it away from ``stop``.
    """
    offsets, documents = units.offsets, units.documents
    count = len(own)
    place = random.random(count)
    if len(documents) == 1:
        first, last = documents[0]
        size = last - first
        begin = first + (stop - first + size // 4 + (place * max(size // 2, 1)).astype(np.int64)) % size
        end_of_document = np.full(count, last)
    else:
        other = random.integers(0, len(documents) - 1, count)
        other += other >= own
        first, end_of_document = documents[other, 0], documents[other, 1]
        latest = np.searchsorted(offsets, offsets[end_of_document] - rest, side="right") - 1
        latest = np.clip(latest, first, end_of_document - 1)
        begin = first + (place * (latest - first + 1)).astype(np.int64)
    end = np.searchsorted(offsets, offsets[begin] + rest)
    return begin, np.clip(end, begin + 1, end_of_document)


def _truncated(
    first_start: Offsets,
    first_end: Offsets,
    second_start: Offsets,
    second_end: Offsets,
    is_random: Flags,
    *,
    max_tokens: int,
    random: np.random.Generator,
) -> PairPlan:
    """Shorten pairs token by token from the longer segment, each time at the front or the back."""
    first, second = first_end - first_start, second_end - second_start
    excess = np.maximum(first + second - max_tokens, 0)
    levelling = np.minimum(excess, np.abs(first - second))
    shared = excess - levelling
    # Of two equal segments the second loses a token first.
    from_first = np.where(first > second, levelling, 0) + shared // 2
    from_second = np.where(first > second, 0, levelling) + (shared + 1) // 2
    return PairPlan(
        first_start + random.binomial(from_first, 0.5),
        (first - from_first).astype(np.int32),
        second_start + random.binomial(from_second, 0.5),
        (second - from_second).astype(np.int32),
        is_random,
    )
