from __future__ import annotations

import numpy as np
import pytest

from flashdistill.core.errors import CorpusError
from flashdistill.data.split import split_documents
from tests.faults_catalogue import fault


def offsets(*lengths: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def split(sentences_per_document: list[int], tokens: int = 10, fraction: float = 0.1, max_length: int = 16):
    documents = offsets(*sentences_per_document)
    sentences = offsets(*[tokens] * sum(sentences_per_document))
    train, validation = split_documents(documents, sentences, fraction, max_length, "the test")
    return train, validation, [int((end - begin) * tokens) for begin, end in validation]


def test_whole_documents_apart() -> None:
    train, validation, held_out = split([20] * 50)
    assert 1000 <= sum(held_out) <= 2000
    starts = {begin for begin, _ in np.concatenate([train, validation])}
    assert starts == set(range(0, 1000, 20))
    assert len(train) + len(validation) == 50
    # Drawn from all over the corpus, not its first documents.
    assert validation[:, 0].max() > 200


def test_the_same_every_time() -> None:
    first, second = split([7, 30, 12] * 20), split([7, 30, 12] * 20)
    np.testing.assert_array_equal(first[1], second[1])


def test_at_least_a_few_sequences() -> None:
    _, _, held_out = split([20] * 50, fraction=0.001)
    assert 4 * 16 <= sum(held_out) <= 400


def test_an_overlong_document_is_passed_over() -> None:
    _, validation, held_out = split([2000] + [10] * 100)
    assert 0 not in validation[:, 0]
    assert 3000 <= sum(held_out) <= 6000


@pytest.mark.parametrize("lengths", [[1000], [1000, 1]])
def test_a_single_text_is_cut_at_a_sentence(lengths: list[int]) -> None:
    train, validation, held_out = split(lengths)
    assert train[0].tolist()[0] == 0
    assert train[0, 1] == validation[-1, 0]
    assert validation[-1, 1] == 1000
    assert 1000 <= sum(held_out) <= 1020


def test_too_little_text_says_how_much() -> None:
    with pytest.raises(CorpusError, match=r"the test: 100 tokens in 2 documents; 320 are needed \(16 sequences of 16"):
        split([5, 5])


@fault(9, "a text of one endless sentence")
def test_one_endless_sentence_cannot_be_divided() -> None:
    with pytest.raises(CorpusError, match="cannot be divided"):
        split([1], tokens=10_000)
