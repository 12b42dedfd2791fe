from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from flashdistill.models.inputs import Inputs
from flashdistill.models.single_blocks import BlockMaps, attention_probabilities, view_with
from flashdistill.models.teacher_blocks import TeacherBlocks
from flashdistill.testing.tiny_teachers import (
    BERT,
    FAMILIES,
    HEADS,
    LENGTH,
    NUM_BLOCKS,
    WIDTH,
    padded_inputs,
    tiny_model,
)

# --- formulas ---


def heads_of(projected: np.ndarray) -> np.ndarray:
    return projected.reshape(*projected.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_projections_and_attention_follow_their_formula(implementation: str) -> None:
    model = tiny_model(BERT, implementation)
    blocks, inputs = TeacherBlocks(model), padded_inputs()
    hidden = blocks.run(blocks.embed(inputs), inputs, 0, 1)
    maps = blocks.maps(hidden, inputs, 1, projections=True)
    encoder: Any = model.base_model.encoder
    layers = encoder.layer[1].attention.self
    queries, keys, values = (
        heads_of(hidden.double().numpy() @ layer.weight.double().detach().numpy().T + layer.bias.detach().numpy())
        for layer in (layers.query, layers.key, layers.value)
    )
    scores = queries @ keys.transpose(0, 1, 3, 2) / np.sqrt(WIDTH // HEADS)
    weights = np.exp(scores) * inputs["attention_mask"].numpy()[:, None, None, :]
    expected = weights / weights.sum(-1, keepdims=True)
    for got, wanted in zip(
        (maps.queries, maps.keys, maps.values, maps.attention), (queries, keys, values, expected), strict=True
    ):
        assert got is not None
        np.testing.assert_allclose(got.numpy(), wanted, atol=1e-5)


def test_projections_come_only_when_asked_for() -> None:
    blocks, inputs = TeacherBlocks(tiny_model(BERT)), padded_inputs()
    maps = blocks.maps(blocks.embed(inputs), inputs, 0)
    assert (maps.queries, maps.keys, maps.values) == (None, None, None)


# --- what it costs ---


class Counter:
    """Counts the forwards of a model's embeddings and blocks."""

    def __init__(self, model: PreTrainedModel):
        body: Any = model.base_model
        self.calls = [0] * (NUM_BLOCKS + 1)
        for index, module in enumerate([body.embeddings, *body.encoder.layer]):
            module.register_forward_hook(lambda *_, index=index: self._add(index))

    def _add(self, index: int) -> None:
        self.calls[index] += 1

    def since_last_time(self) -> list[int]:
        """Calls of the embeddings, then of every block."""
        calls, self.calls = self.calls, [0] * (NUM_BLOCKS + 1)
        return calls


@pytest.fixture
def counted() -> tuple[TeacherBlocks, Counter]:
    model = tiny_model(BERT)
    counter = Counter(model)
    blocks = TeacherBlocks(model)
    assert blocks.separable(LENGTH)
    counter.since_last_time()
    return blocks, counter


def test_maps_of_a_block_run_that_block_only(counted: tuple[TeacherBlocks, Counter]) -> None:
    blocks, counter = counted
    inputs, hidden = padded_inputs(), torch.ones(3, LENGTH, WIDTH)
    blocks.maps(hidden, inputs, 1)
    assert counter.since_last_time() == [1, 0, 1, 0]
    blocks.maps(hidden, inputs, 2)
    blocks.run(hidden, inputs, 0, 2)
    assert counter.since_last_time() == [0, 1, 1, 1]


def test_a_batch_is_known_by_its_tensors_and_their_content(counted: tuple[TeacherBlocks, Counter]) -> None:
    blocks, counter = counted
    inputs = padded_inputs()
    first = blocks.embed(inputs)
    inputs["input_ids"][0, 1] += 1
    second = blocks.embed(inputs)
    assert not torch.equal(second, first)
    assert torch.equal(blocks.embed({**inputs, "input_ids": inputs["input_ids"].clone()}), second)
    assert counter.since_last_time() == [3, 0, 0, 0]


def test_writing_to_an_embedding_does_not_reach_the_next_answer(counted: tuple[TeacherBlocks, Counter]) -> None:
    blocks, _ = counted
    inputs = padded_inputs()
    kept = blocks.embed(inputs).clone()
    blocks.embed(inputs).zero_()
    assert torch.equal(blocks.embed(inputs), kept)


def test_tensors_of_inference_mode_are_not_taken_for_others(counted: tuple[TeacherBlocks, Counter]) -> None:
    blocks, _ = counted
    with torch.inference_mode():
        inputs = {name: tensor.clone() for name, tensor in padded_inputs().items()}
        first = blocks.embed(inputs)
        inputs["input_ids"][0, 1] += 1
        assert not torch.equal(blocks.embed(inputs), first)


def test_the_check_is_made_once_a_length() -> None:
    model = tiny_model(BERT)
    blocks, counter = TeacherBlocks(model), Counter(model)
    once_apart_and_once_whole = [2] * (NUM_BLOCKS + 1)
    assert blocks.separable(LENGTH)
    assert counter.since_last_time() == once_apart_and_once_whole
    assert blocks.separable(LENGTH)
    assert counter.since_last_time() == [0] * (NUM_BLOCKS + 1)
    assert blocks.separable(LENGTH + 1)
    assert counter.since_last_time() == once_apart_and_once_whole


def test_threads_do_not_see_each_others_batches() -> None:
    blocks = TeacherBlocks(tiny_model(BERT))
    batches = [padded_inputs(step) for step in range(8)]

    def ask(inputs: Inputs) -> BlockMaps:
        return blocks.maps(blocks.embed(inputs), inputs, 0, projections=True)

    expected = [ask(inputs) for inputs in batches]
    with ThreadPoolExecutor(4) as threads:
        for got, wanted in zip(threads.map(ask, batches * 4), expected * 4, strict=True):
            assert torch.equal(got.attention, wanted.attention)
            assert torch.equal(got.features, wanted.features)


# --- precision ---


def test_an_embedding_made_under_autocast_is_not_used_outside() -> None:
    blocks, inputs = TeacherBlocks(tiny_model(FAMILIES["mobilebert"])), padded_inputs()
    expected = blocks.embed({name: tensor.clone() for name, tensor in inputs.items()})
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(blocks.embed(inputs), expected)
    assert torch.equal(blocks.embed(inputs), expected)


def test_half_precision_weights_come_apart() -> None:
    model: Any = tiny_model(BERT, "sdpa")
    blocks, inputs = TeacherBlocks(model.bfloat16()), padded_inputs()
    assert blocks.separable(LENGTH)
    maps = blocks.maps(blocks.embed(inputs), inputs, 0)
    assert (maps.features.dtype, maps.attention.dtype) == (torch.bfloat16, torch.float32)


def test_a_sequence_of_padding_alone_gives_numbers() -> None:
    queries = torch.ones(1, 1, 3, 4)
    uniform = attention_probabilities(queries, queries, 0.5, torch.zeros(1, 3))
    torch.testing.assert_close(uniform, torch.full((1, 1, 3, 3), 1 / 3))


# --- views ---


def test_a_view_shares_all_but_what_is_replaced() -> None:
    model: Any = tiny_model(BERT)
    body = model.base_model
    replacement = torch.nn.Identity()
    view: Any = view_with(body, {"encoder.layer.1": replacement, "embeddings": replacement})
    assert view.encoder.layer[1] is replacement
    assert view.embeddings is replacement
    assert view.encoder.layer[0] is body.encoder.layer[0]
    assert view.encoder.config is body.encoder.config
    assert body.encoder.layer[1] is not replacement
    assert body.embeddings is not replacement
