from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashdistill.core.progress import Silent
from flashdistill.data.batch import Batch
from flashdistill.data.masking import mask_draws
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.token_cache import TokenisedCorpus, prepare_corpus

WriteCorpus = Callable[[Path, list[str]], CorpusSettings]

VALIDATION_DRAWS = [
    [0.2724625972482376, 0.6037167553863677, 0.999694783445975],
    [0.0851880791833064, 0.5542182648513908, 0.9741654317210605],
]
"""The first numbers that choose the masked tokens of the first two validation pairs."""


@pytest.fixture(scope="module")
def data(corpus: TokenisedCorpus, tokenizer: Any, settings: CorpusSettings) -> PretrainingData:
    return PretrainingData(corpus, tokenizer, settings, seed=0)


def assert_equal(one: Batch, two: Batch) -> None:
    for field in fields(Batch):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name), err_msg=field.name)


def unmasked(batch: Batch) -> np.ndarray:
    ids = batch.input_ids.copy()
    ids.reshape(-1)[batch.masked_positions] = batch.masked_labels
    return ids


def test_layout(data: PretrainingData, corpus: TokenisedCorpus, tokenizer: Any) -> None:
    text = corpus.tokens.tobytes()
    for step in range(5):
        batch = data.batch(step, 16)
        assert batch.input_ids.dtype == np.int64
        assert batch.input_ids.shape[1] % 8 == 0
        assert batch.input_ids.shape[1] <= 64
        for ids, types, real in zip(unmasked(batch), batch.token_type_ids, batch.attention_mask, strict=True):
            length = real.sum()
            assert (real == (np.arange(len(real)) < length)).all()
            assert (ids[length:] == tokenizer.pad_token_id).all()
            assert ids[0] == tokenizer.cls_token_id
            first_end, second_end = np.flatnonzero(ids == tokenizer.sep_token_id)
            assert second_end == length - 1
            assert (types == ((np.arange(len(ids)) > first_end) & (real == 1))).all()
            # Both segments stand in the corpus as they are.
            for segment in (ids[1:first_end], ids[first_end + 1 : second_end]):
                assert len(segment)
                assert segment.astype(corpus.tokens.dtype).tobytes() in text


def test_special_tokens_are_never_predicted_or_drawn(data: PretrainingData, tokenizer: Any) -> None:
    allowed_now = set(range(5, len(tokenizer))) | {tokenizer.mask_token_id}
    for step in range(30):
        batch = data.batch(step, 16)
        assert not set(batch.masked_labels.tolist()) & set(tokenizer.all_special_ids)
        assert set(batch.input_ids.reshape(-1)[batch.masked_positions].tolist()) <= allowed_now


def test_labels_say_what_the_second_segment_is(data: PretrainingData, corpus: TokenisedCorpus, tokenizer: Any) -> None:
    document = np.zeros(len(corpus.tokens), dtype=int)
    for number, (begin, end) in enumerate(corpus.train):
        document[corpus.sentence_offsets[begin] : corpus.sentence_offsets[end]] = number + 1
    text, size = corpus.tokens.tobytes(), corpus.tokens.dtype.itemsize
    seen = {0: 0, 1: 0}
    for step in range(20):
        batch = data.batch(step, 16)
        for ids, label in zip(unmasked(batch), batch.next_sentence_labels.tolist(), strict=True):
            first_end, second_end = np.flatnonzero(ids == tokenizer.sep_token_id)
            places = []
            for segment in (ids[1:first_end], ids[first_end + 1 : second_end]):
                data_bytes = segment.astype(corpus.tokens.dtype).tobytes()
                if len(segment) >= 12 and text.count(data_bytes) == 1:
                    places.append(document[text.index(data_bytes) // size])
            if len(places) == 2:
                assert 0 not in places  # never a validation document
                assert (places[0] == places[1]) == (label == 0)
                seen[label] += 1
    assert min(seen.values()) > 30


def test_a_batch_depends_on_its_step_alone(corpus: TokenisedCorpus, tokenizer: Any, settings: CorpusSettings) -> None:
    forwards, backwards = (PretrainingData(corpus, tokenizer, settings, seed=3) for _ in range(2))
    steps = [0, 1, 50, 200, 1000, 49]
    ahead = {step: forwards.batch(step, 16) for step in steps}
    for step in reversed(steps):
        assert_equal(backwards.batch(step, 16), ahead[step])
    assert_equal(forwards.batch(50, 16), ahead[50])


def test_batch_size_does_not_change_the_examples(data: PretrainingData) -> None:
    whole = data.batch(0, 32)
    halves = [data.batch(0, 16), data.batch(1, 16)]
    width = whole.input_ids.shape[1]
    rows = np.concatenate([np.pad(half.input_ids, ((0, 0), (0, width - half.input_ids.shape[1]))) for half in halves])
    np.testing.assert_array_equal(rows, whole.input_ids)
    np.testing.assert_array_equal(np.concatenate([half.masked_labels for half in halves]), whole.masked_labels)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("at_border", [False, True])
def test_ranks_share_the_batch(data: PretrainingData, world_size: int, at_border: bool) -> None:
    step = data.train_sequences // 16 if at_border else 4
    whole = data.batch(step, 16)
    shares = [data.batch(step, 16, rank, world_size) for rank in range(world_size)]
    for name in ("input_ids", "token_type_ids", "attention_mask", "next_sentence_labels", "masked_labels"):
        np.testing.assert_array_equal(np.concatenate([getattr(share, name) for share in shares]), getattr(whole, name))
    width, row = whole.input_ids.shape[1], 0
    positions = []
    for share in shares:
        positions.append(share.masked_positions + row * width)
        row += len(share.input_ids)
    np.testing.assert_array_equal(np.concatenate(positions), whole.masked_positions)


def test_epochs_have_other_pairs_and_masks(data: PretrainingData) -> None:
    size = data.train_sequences
    first, second = data.batch(0, size), data.batch(1, size)
    rows = [{tuple(row[row > 0].tolist()) for row in unmasked(batch)} for batch in (first, second)]
    assert len(rows[0]) > 0.99 * size
    assert len(rows[0] & rows[1]) < 0.05 * size


def test_seeds_differ_in_training_and_agree_in_validation(
    data: PretrainingData, corpus: TokenisedCorpus, tokenizer: Any, settings: CorpusSettings
) -> None:
    other = PretrainingData(corpus, tokenizer, settings, seed=1)
    assert not np.array_equal(other.batch(0, 16).masked_labels, data.batch(0, 16).masked_labels)
    for one, two in zip(data.validation_batches(16), other.validation_batches(16), strict=True):
        assert_equal(one, two)
    assert other.identity != data.identity


def test_identity(data: PretrainingData, corpus: TokenisedCorpus, tokenizer: Any, settings: CorpusSettings) -> None:
    def identity(**changes: Any) -> str:
        return PretrainingData(corpus, tokenizer, settings.model_copy(update=changes), 0).identity

    assert identity() == data.identity
    assert identity(masked_fraction=0.2) != data.identity
    assert identity(short_sequence_fraction=0.5) != data.identity


def test_validation_batches(
    data: PretrainingData, corpus: TokenisedCorpus, tokenizer: Any, settings: CorpusSettings
) -> None:
    batches = list(data.validation_batches(16))
    assert [len(batch.input_ids) for batch in batches[:-1]] == [16] * (len(batches) - 1)
    for one, two in zip(batches, data.validation_batches(16), strict=True):
        assert_equal(one, two)
    capped = settings.model_copy(update={"validation_sequences": 20})
    few = list(PretrainingData(corpus, tokenizer, capped, 0).validation_batches(16))
    assert [len(batch.input_ids) for batch in few] == [16, 4]
    assert_equal(few[0], batches[0])


def test_no_validation_text_in_training(
    tmp_path: Path,
    tokenizer: Any,
    write_corpus: WriteCorpus,
    make_documents: Callable[..., list[str]],
) -> None:
    """No run of eight tokens that only held-out documents have is ever trained on."""
    documents = make_documents(20, 30, seed=5)
    settings = write_corpus(tmp_path / "text", documents)
    corpus = prepare_corpus(settings, tokenizer, tmp_path / "cache", Silent())
    data = PretrainingData(corpus, tokenizer, settings, 0)
    owner = np.zeros(len(corpus.tokens), dtype=int)
    for begin, end in corpus.validation:
        owner[corpus.sentence_offsets[begin] : corpus.sentence_offsets[end]] = 1
    starts = range(len(owner) - 8)
    grams = [tuple(corpus.tokens[start : start + 8].tolist()) for start in starts]
    held_out = {grams[start] for start in starts if owner[start : start + 8].all()}
    trained = {grams[start] for start in starts if not owner[start : start + 8].any()}
    distinct = held_out - trained
    assert len(distinct) > 500
    for row in unmasked(data.batch(0, data.train_sequences)).tolist():
        assert not any(tuple(row[start : start + 8]) in distinct for start in range(len(row) - 8))
    found = sum(
        tuple(row[start : start + 8]) in distinct
        for batch in data.validation_batches(16)
        for row in unmasked(batch).tolist()
        for start in range(len(row) - 8)
    )
    assert found > 100


def test_a_single_text_can_be_used(
    tmp_path: Path,
    tokenizer: Any,
    write_corpus: WriteCorpus,
    make_documents: Callable[..., list[str]],
) -> None:
    settings = write_corpus(tmp_path / "text", make_documents(1, 600))
    data = PretrainingData(prepare_corpus(settings, tokenizer, tmp_path / "cache", Silent()), tokenizer, settings, 0)
    labels = data.batch(0, data.train_sequences).next_sentence_labels
    assert 0.3 < labels.mean() < 0.7
    assert list(data.validation_batches(8))


@pytest.mark.parametrize("arguments", [(-1, 8), (0, 0), (0, 8, 2, 2), (0, 2, 0, 3)])
def test_impossible_batches(data: PretrainingData, arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no batch"):
        data.batch(*arguments)


def test_batches_are_fast(data: PretrainingData) -> None:
    data.batch(0, 32)
    times = []
    for step in range(1, 30):
        start = time.perf_counter()
        data.batch(step % 5, 32)
        times.append(time.perf_counter() - start)
    # 1 ms on an idle core; the minimum is robust against busy neighbours.
    assert min(times) < 0.005


def test_the_papers_masking(tokenizer: Any, tmp_path: Path, write_corpus: WriteCorpus, make_documents: Any) -> None:
    """At most 20 tokens of a sequence of 512, where 15 % would be about 75; in proportion at other lengths."""
    settings = write_corpus(tmp_path, make_documents(12, 120)).model_copy(
        update={"max_length": 512, "max_predictions": "20-per-512", "short_sequence_fraction": 0.0}
    )
    corpus = prepare_corpus(settings, tokenizer, tmp_path / "cache", Silent())
    batch = PretrainingData(corpus, tokenizer, settings, seed=0).batch(0, 8)
    counts = np.bincount(batch.masked_positions // batch.input_ids.shape[1], minlength=8)
    assert counts.max() == 20
    assert (counts[batch.attention_mask.sum(axis=1) > 200] == 20).all()
    caps = {length: settings.model_copy(update={"max_length": length}).predictions_cap for length in (16, 64, 128, 384)}
    assert caps == {16: 1, 64: 2, 128: 5, 384: 15}
    assert settings.model_copy(update={"max_predictions": 7}).predictions_cap == 7
    assert settings.model_copy(update={"max_predictions": None}).predictions_cap is None


@pytest.mark.parametrize("given", [0, "20-per-128"])
def test_other_caps_are_refused(settings: CorpusSettings, given: object) -> None:
    with pytest.raises(ValueError, match="max_predictions"):
        CorpusSettings.model_validate(settings.model_dump() | {"max_predictions": given})


def test_validation_masks_never_change(data: PretrainingData, tokenizer: Any) -> None:
    """Accuracies of different runs, seeds and versions are comparable because the same tokens are masked.

    Where this fails, those reported before mean something else.
    """
    draws = mask_draws([0, 1], 64, "validation", "masks")
    np.testing.assert_allclose(draws[:, 0, :3], VALIDATION_DRAWS, atol=1e-12)
    batch = next(data.validation_batches(2))
    width = batch.input_ids.shape[1]
    maskable = ~np.isin(unmasked(batch), tokenizer.all_special_ids)
    for row in range(2):
        found = batch.masked_positions[batch.masked_positions // width == row] % width
        order = np.argsort(np.where(maskable[row], draws[row, 0, :width], np.inf))
        assert found.tolist() == sorted(order[: round(0.15 * maskable[row].sum())].tolist())
