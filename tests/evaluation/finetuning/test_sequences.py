"""Tokens, the order of steps, and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flashdistill.evaluation.finetuning.heads import load_for_task
from flashdistill.evaluation.finetuning.sequences import Sequences, StepOrder, by_length, encode, predict
from flashdistill.training.compute import WHOLE, Share
from tests.evaluation.finetuning.tiny_task import polarity, save_bert, sentences, tokenizer


def test_pairs_lose_tokens_from_the_longer_text() -> None:
    own = tokenizer()
    sequences = encode(["film", "the film is warm"], ["the story is dull and flat", "flat"], own, max_length=8)
    rows = [sequences.tokens[a:b].tolist() for a, b in zip(sequences.offsets, sequences.offsets[1:], strict=False)]
    assert own.convert_ids_to_tokens(rows[0]) == ["[CLS]", "film", "[SEP]", "the", "story", "is", "dull", "[SEP]"]
    assert own.convert_ids_to_tokens(rows[1]) == ["[CLS]", "the", "film", "is", "warm", "[SEP]", "flat", "[SEP]"]
    assert sequences.segments[:8].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("length", "allowed", "width"), [(3, 64, 8), (8, 64, 8), (9, 64, 16), (9, 10, 10), (9, 9, 9)])
def test_batches_are_padded_to_a_multiple_of_eight_or_the_longest_allowed(
    length: int, allowed: int, width: int
) -> None:
    sequences = Sequences.of([[5] * length, [6, 7]], [[1] * length, [0, 0]], pad_token_id=4, longest_allowed=allowed)
    batch = sequences.batch(np.array([1, 0]))
    assert batch["input_ids"].shape == (2, width)
    assert batch["input_ids"][0].tolist() == [6, 7] + [4] * (width - 2)
    assert batch["attention_mask"].sum(1).tolist() == [2, length]
    assert batch["token_type_ids"].sum(1).tolist() == [0, length]


def test_every_epoch_takes_every_sequence_once_in_another_order() -> None:
    order = StepOrder(10, 4, seed=1)
    stream = np.concatenate([order.rows(step, WHOLE) for step in range(5)])
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10].tolist() != stream[10:].tolist()
    assert StepOrder(10, 4, seed=2).rows(0, WHOLE).tolist() != order.rows(0, WHOLE).tolist()


def test_shares_are_the_batch_in_parts() -> None:
    order = StepOrder(10, 7, seed=0)
    for step in range(4):
        parts = [order.rows(step, Share(index, 3)) for index in range(3)]
        assert np.concatenate(parts).tolist() == order.rows(step, WHOLE).tolist()


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 5), (0.1, 1), (0.5, 2), (4, 10)])
def test_epochs_in_steps(epochs: float, steps: int) -> None:
    assert StepOrder(10, 4, 0).steps(epochs) == steps


def test_a_share_without_remainder_is_not_rounded_up() -> None:
    assert StepOrder(30, 1, 0).steps(0.1) == 3  # 0.1 · 30 is 3.0000000000000004


def test_dropout_depends_on_step_and_share_alone_and_leaves_other_random_numbers_alone() -> None:
    order = StepOrder(4, 2, seed=0)

    def drawn(step: int, share: Share) -> float:
        with order.dropout(step, share, torch.device("cpu")):
            return torch.rand(1).item()

    before = torch.get_rng_state()
    first = drawn(3, WHOLE)
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn(4, WHOLE) != first
    assert drawn(3, Share(1, 2)) != first
    assert drawn(3, WHOLE) == first


def test_the_longest_come_first() -> None:
    sequences = Sequences.of([[1] * n for n in (2, 5, 3, 5)], [[0] * n for n in (2, 5, 3, 5)], 0, 8)
    assert [batch.tolist() for batch in by_length(sequences, 3)] == [[1, 3, 2], [0]]


def test_predictions_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = load_for_task(save_bert(tmp_path), polarity(), 0).model.train()
    rows = sentences(9, 0)
    sequences = encode(rows.texts, None, tokenizer(), 16)

    def logits(batch_size: int) -> np.ndarray:
        result = np.zeros((9, 2), dtype=np.float32)

        def keep(indices: np.ndarray, outputs: Any) -> None:
            result[indices] = outputs.logits.numpy()

        predict(model, sequences, batch_size, keep)
        return result

    np.testing.assert_allclose(logits(1), logits(4), atol=1e-5)
    assert model.training
