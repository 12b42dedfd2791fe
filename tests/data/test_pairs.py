from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from flashdistill.core.seeds import generator
from flashdistill.data.pairs import PairPlan, Units, make_units, plan_pairs

MAX_TOKENS = 61


def units(documents: int, sentences: int, seed: int = 0, longest: int = 30) -> Units:
    lengths = np.random.default_rng(seed).integers(1, longest + 1, documents * sentences)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    starts = np.arange(documents) * sentences
    return Units(offsets, np.stack([starts, starts + sentences], axis=1))


def plan(of: Units, *stream: object, short: float = 0.1) -> PairPlan:
    return plan_pairs(of, MAX_TOKENS, short, generator("test", *stream))


def document_of(of: Units, tokens: np.ndarray) -> np.ndarray:
    return np.searchsorted(of.offsets[of.documents[:, 0]], tokens, side="right") - 1


@pytest.fixture(scope="module")
def many() -> tuple[Units, PairPlan]:
    of = units(100, 200)
    return of, plan(of)


def test_half_of_the_second_segments_are_random(many: tuple[Units, PairPlan]) -> None:
    _, pairs = many
    # The last sentence of a document has no successor: at most one random pair more per document.
    sigma = np.sqrt(len(pairs)) / 2
    assert abs(pairs.is_random.sum() - len(pairs) / 2) < 4 * sigma + 100


def test_lengths(many: tuple[Units, PairPlan]) -> None:
    _, pairs = many
    total = pairs.first_length + pairs.second_length
    assert total.max() == MAX_TOKENS
    assert min(pairs.first_length.min(), pairs.second_length.min()) >= 1
    # One in ten is short on purpose, the ends of documents by chance; the others are full.
    assert 0.85 < np.mean(total == MAX_TOKENS) < 0.97


def test_next_segments_follow_in_the_same_document(many: tuple[Units, PairPlan]) -> None:
    of, pairs = many
    true = ~pairs.is_random
    gap = pairs.second_start - (pairs.first_start + pairs.first_length)
    # Between the segments lies only what truncation took at the end of A and the start of B.
    assert gap[true].min() == 0
    assert gap[true].max() < 2 * 30 + MAX_TOKENS
    assert np.median(gap[true]) <= 10
    first, second = document_of(of, pairs.first_start), document_of(of, pairs.second_start)
    np.testing.assert_array_equal(first[true], second[true])


def test_random_segments_come_from_other_documents(many: tuple[Units, PairPlan]) -> None:
    of, pairs = many
    chance = pairs.is_random
    first, second = document_of(of, pairs.first_start[chance]), document_of(of, pairs.second_start[chance])
    assert (first != second).all()
    counts = np.bincount(second, minlength=100)
    assert counts.min() > 0.4 * counts.mean()


def test_segments_stay_inside_their_documents(many: tuple[Units, PairPlan]) -> None:
    of, pairs = many
    for start, length in ((pairs.first_start, pairs.first_length), (pairs.second_start, pairs.second_length)):
        np.testing.assert_array_equal(document_of(of, start), document_of(of, start + length - 1))


def test_every_sentence_is_used_once_in_order() -> None:
    """Without truncation, A and true B segments tile each document."""
    of = units(5, 60, longest=4)
    pairs = plan_pairs(of, 40, 1.0, generator("short"))
    spans = list(zip(pairs.first_start, pairs.first_start + pairs.first_length, strict=True))
    true = ~pairs.is_random
    spans += list(zip(pairs.second_start[true], pairs.second_start[true] + pairs.second_length[true], strict=True))
    spans.sort()
    covered = sum(end - begin for begin, end in spans)
    assert all(previous[1] <= following[0] for previous, following in pairwise(spans))
    assert covered > 0.95 * of.offsets[-1]


def test_epochs_differ_and_repeat() -> None:
    of = units(10, 50)
    one, again, other = plan(of, 0), plan(of, 0), plan(of, 1)
    np.testing.assert_array_equal(one.first_start, again.first_start)
    np.testing.assert_array_equal(one.second_length, again.second_length)
    pairs = [set(zip(p.first_start.tolist(), p.second_start.tolist(), strict=True)) for p in (one, other)]
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 4


def test_short_sequences() -> None:
    of = units(20, 200)
    for fraction in (0.0, 0.5):
        total = plan(of, short=fraction)
        full = np.mean(total.first_length + total.second_length == MAX_TOKENS)
        assert full > 0.97 if fraction == 0 else 0.5 < full < 0.8


def test_a_single_document_takes_its_far_part() -> None:
    of = units(1, 400)
    pairs = plan(of)
    assert 0.4 < pairs.is_random.mean() < 0.6
    chance = pairs.is_random
    distance = np.abs(pairs.second_start - pairs.first_start)[chance] / of.offsets[-1]
    assert min(distance.min(), 1 - distance.max()) > 0.15


def test_overlong_sentences_are_cut() -> None:
    offsets = np.array([0, 10, 210, 261, 322])  # lengths 10, 200, 51, 61
    of = make_units(offsets, np.array([[0, 2], [2, 4]]), MAX_TOKENS)
    assert np.diff(of.offsets).tolist() == [10, *[31] * 6, 14, 51, 61]
    assert of.offsets[of.documents].tolist() == [[0, 210], [210, 322]]


def test_one_endless_sentence_per_document_gives_true_pairs() -> None:
    offsets = np.array([0, 5000, 10_000])
    pairs = plan(make_units(offsets, np.array([[0, 1], [1, 2]]), MAX_TOKENS))
    assert 0.3 < pairs.is_random.mean() < 0.7
    used = pairs.first_length.sum() + pairs.second_length[~pairs.is_random].sum()
    assert used > 9000


def test_documents_of_one_sentence_are_always_random() -> None:
    pairs = plan(units(50, 1))
    assert len(pairs) == 50
    assert pairs.is_random.all()


def test_truncation_takes_from_the_longer_segment() -> None:
    offsets = np.array([0, 58, 68, 126, 136])  # 58 + 10 tokens in each document
    of = Units(offsets, np.array([[0, 2], [2, 4]]))
    pairs = plan(of, short=0.0)
    true = ~pairs.is_random
    if true.any():
        assert (pairs.first_length[true] == 51).all()
        assert (pairs.second_length[true] == 10).all()
    balanced = Units(np.array([0, 50, 100, 150, 200]), of.documents)
    starts = set()
    for seed in range(40):
        pairs = plan(balanced, seed, short=0.0)
        true = ~pairs.is_random
        assert (pairs.first_length[true] == 31).all()
        assert (pairs.second_length[true] == 30).all()
        starts.update((pairs.first_start[true] % 100).tolist())
    # 19 tokens are taken from front or back one by one: neither always the front nor the back.
    assert len(starts) > 4
    assert 4 < np.mean(list(starts)) < 15
