from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import BertConfig, FNetConfig, PretrainedConfig, PreTrainedModel, SqueezeBertConfig
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert.modeling_bert import BertEncoder, BertSelfAttention

from flashdistill.core.errors import TeacherError
from flashdistill.models import single_blocks
from flashdistill.models.inputs import Inputs
from flashdistill.models.single_blocks import attention_probabilities
from flashdistill.models.teacher_blocks import TeacherBlocks
from flashdistill.testing.tiny_teachers import (
    BERT,
    COMMON,
    FAMILIES,
    HEADS,
    INSEPARABLE,
    LENGTH,
    NUM_BLOCKS,
    WIDTH,
    padded_inputs,
    tiny_model,
    whole_model,
)


def assert_same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def assert_blocks_are_the_models(model: PreTrainedModel, inputs: Inputs) -> None:
    hidden_states, attentions = whole_model(model, inputs)
    blocks = TeacherBlocks(model)
    assert_same(blocks.embed(inputs), hidden_states[0])
    for k in range(NUM_BLOCKS):
        maps = blocks.maps(hidden_states[k], inputs, k)
        assert_same(maps.features, hidden_states[k + 1])
        assert_same(maps.attention, attentions[k])
        for last in range(k, NUM_BLOCKS + 1):
            assert_same(blocks.run(hidden_states[k], inputs, k, last), hidden_states[last])


@pytest.fixture(params=FAMILIES.values(), ids=list(FAMILIES))
def config(request: pytest.FixtureRequest) -> PretrainedConfig:
    return request.param


@pytest.fixture(params=["eager", "sdpa"])
def model(config: PretrainedConfig, request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(config, request.param)


@pytest.fixture(params=INSEPARABLE.values(), ids=list(INSEPARABLE))
def inseparable(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


# --- families that come apart ---


def test_every_block_gives_what_the_whole_model_gives(model: PreTrainedModel) -> None:
    assert TeacherBlocks(model).separable(LENGTH)
    assert_blocks_are_the_models(model, padded_inputs())


def test_pieces_are_bitwise_the_whole(model: PreTrainedModel) -> None:
    blocks, inputs = TeacherBlocks(model), padded_inputs()
    embedding = blocks.embed(inputs)
    at_once = blocks.run(embedding, inputs, 0, NUM_BLOCKS)
    assert torch.equal(blocks.run(blocks.run(embedding, inputs, 0, 2), inputs, 2, NUM_BLOCKS), at_once)
    hidden = embedding
    for k in range(NUM_BLOCKS):
        maps = blocks.maps(hidden, inputs, k)
        hidden = blocks.run(hidden, inputs, k, k + 1)
        assert torch.equal(maps.features, hidden)
    assert torch.equal(hidden, at_once)
    assert blocks.run(hidden, inputs, 1, 1) is hidden


def test_padding_gets_no_attention_and_rows_sum_to_one(model: PreTrainedModel) -> None:
    blocks, inputs = TeacherBlocks(model), padded_inputs()
    attention = blocks.maps(blocks.embed(inputs), inputs, 0).attention
    assert attention.shape == (3, HEADS, LENGTH, LENGTH)
    assert (attention.transpose(1, 3)[inputs["attention_mask"] == 0] == 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, HEADS, LENGTH))


def snapshot(model: PreTrainedModel) -> tuple[object, ...]:
    modules = [
        (name, id(module), sorted(set(vars(module)) - {"_is_full_backward_hook"}), len(module._forward_hooks))
        for name, module in model.named_modules()
    ]
    weights = [(name, id(tensor), tensor.sum().item()) for name, tensor in model.named_parameters()]
    return copy.deepcopy(model.config.to_dict()), model.config._attn_implementation, modules, weights, model.training


def use_everything(blocks: TeacherBlocks, inputs: Inputs) -> None:
    hidden = blocks.run(blocks.embed(inputs), inputs, 0, 1)
    blocks.maps(hidden, inputs, 1, projections=blocks.separable(LENGTH))


def test_the_model_stays_as_it_was(model: PreTrainedModel) -> None:
    before = snapshot(model)
    use_everything(TeacherBlocks(model), padded_inputs())
    assert snapshot(model) == before


def test_a_model_that_always_gives_its_hidden_states_stays_as_it_was() -> None:
    model = tiny_model(BertConfig(**COMMON, output_hidden_states=True))
    before = snapshot(model)
    use_everything(TeacherBlocks(model), padded_inputs())
    assert snapshot(model) == before


def test_every_family_that_comes_apart_shows_its_projections(model: PreTrainedModel) -> None:
    blocks, inputs = TeacherBlocks(model), padded_inputs()
    maps = blocks.maps(blocks.embed(inputs), inputs, 0, projections=True)
    assert maps.queries is not None
    assert maps.keys is not None
    assert maps.values is not None
    assert maps.queries.shape == maps.keys.shape == maps.values.shape
    scaling = maps.queries.shape[-1] ** -0.5
    expected = attention_probabilities(maps.queries, maps.keys, scaling, inputs["attention_mask"])
    assert torch.equal(maps.attention, expected)


def test_nothing_needs_a_gradient() -> None:
    model = tiny_model(BERT)
    blocks, inputs = TeacherBlocks(model), padded_inputs()
    embedding = blocks.embed(inputs).requires_grad_()
    maps = blocks.maps(embedding, inputs, 0)
    assert not maps.features.requires_grad
    assert not maps.attention.requires_grad
    assert not blocks.run(embedding, inputs, 0, 2).requires_grad


@pytest.mark.parametrize(("first", "last"), [(-1, 1), (2, 1), (0, NUM_BLOCKS + 1)])
def test_blocks_that_do_not_exist(first: int, last: int) -> None:
    blocks, inputs = TeacherBlocks(tiny_model(BERT)), padded_inputs()
    with pytest.raises(ValueError, match=f"blocks {first} to {last} of a teacher with 3"):
        blocks.run(blocks.embed(inputs), inputs, first, last)
    with pytest.raises(ValueError, match="block 3 of a teacher with 3"):
        blocks.maps(blocks.embed(inputs), inputs, NUM_BLOCKS)


# --- precision ---


def test_attention_is_float32_under_autocast(model: PreTrainedModel) -> None:
    blocks, inputs = TeacherBlocks(model), padded_inputs()
    exact = blocks.embed(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        maps = blocks.maps(blocks.embed(inputs), inputs, 0)
    assert maps.attention.dtype == torch.float32
    torch.testing.assert_close(maps.attention.sum(-1), torch.ones(3, HEADS, LENGTH))
    assert (maps.attention.transpose(1, 3)[inputs["attention_mask"] == 0] == 0).all()
    torch.testing.assert_close(maps.attention, blocks.maps(exact, inputs, 0).attention, rtol=0, atol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_blocks_on_a_gpu(model: PreTrainedModel) -> None:
    inputs = padded_inputs()
    hidden_states, attentions = whole_model(model, inputs)
    on_gpu = {name: tensor.cuda() for name, tensor in inputs.items()}
    movable: Any = model
    blocks = TeacherBlocks(movable.cuda())
    assert blocks.separable(LENGTH)
    maps = blocks.maps(blocks.run(blocks.embed(on_gpu), on_gpu, 0, 1), on_gpu, 1)
    torch.testing.assert_close(maps.features.cpu(), hidden_states[2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(maps.attention.cpu(), attentions[1], rtol=1e-3, atol=1e-3)


# --- families that do not come apart ---


def test_the_whole_model_answers_where_blocks_cannot(inseparable: PreTrainedModel) -> None:
    assert not TeacherBlocks(inseparable).separable(LENGTH)
    assert_blocks_are_the_models(inseparable, padded_inputs())
    before = snapshot(inseparable)
    use_everything(TeacherBlocks(inseparable), padded_inputs())
    assert snapshot(inseparable) == before


def test_relations_are_refused_where_blocks_do_not_show_them(inseparable: PreTrainedModel) -> None:
    blocks, inputs = TeacherBlocks(inseparable), padded_inputs()
    with pytest.raises(TeacherError, match="relation loss cannot be used with a .* use the attention and feature-map"):
        blocks.maps(blocks.embed(inputs), inputs, 0, projections=True)
    with pytest.raises(TeacherError, match="relation loss"):
        blocks.require_projections(LENGTH)


def test_the_fallback_follows_the_models_weights(inseparable: PreTrainedModel) -> None:
    blocks, inputs = TeacherBlocks(inseparable), padded_inputs()
    assert blocks.embed(inputs).dtype == torch.float32
    inseparable.double()
    assert blocks.embed(inputs).dtype == torch.float64


class DistanceAttention(BertSelfAttention):
    """Attention that prefers near tokens, which its query and key layers do not tell."""

    reach = 0

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:  # type: ignore
        position = torch.arange(hidden_states.shape[1])
        distance = (position[:, None] - position[None, :]).abs().float()
        return super().forward(hidden_states, attention_mask - (distance - self.reach).clamp(min=0), **kwargs)


class ShiftingEncoder(BertEncoder):
    """An encoder that does something between its blocks."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:  # type: ignore
        for k, layer in enumerate(self.layer):
            hidden_states = layer(hidden_states.roll(int(k == 1), dims=-1), attention_mask)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden_states)  # type: ignore[arg-type]


def bert_with_distance_attention(reach: int) -> PreTrainedModel:
    model: Any = tiny_model(BERT)
    attention = model.bert.encoder.layer[1].attention.self
    attention.__class__ = type("LimitedAttention", (DistanceAttention,), {"reach": reach})
    return model


def test_attention_with_a_bias_of_its_own_is_found_out() -> None:
    model = bert_with_distance_attention(reach=0)
    assert not TeacherBlocks(model).separable(LENGTH)
    assert_blocks_are_the_models(model, padded_inputs())


def test_attention_that_differs_in_long_sequences_is_found_out() -> None:
    model = bert_with_distance_attention(reach=6)
    blocks = TeacherBlocks(model)
    assert blocks.separable(6)
    assert not blocks.separable(LENGTH)
    assert_blocks_are_the_models(model, padded_inputs())


def test_a_step_between_the_blocks_is_found_out() -> None:
    model: Any = tiny_model(BERT)
    model.bert.encoder.__class__ = ShiftingEncoder
    assert not TeacherBlocks(model).separable(LENGTH)
    assert_blocks_are_the_models(model, padded_inputs())


def test_keys_taken_for_values_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_blocks, "PROJECTION_NAMES", (("query", "value", "key"),))
    assert not TeacherBlocks(tiny_model(BERT)).separable(LENGTH)


def test_going_over_to_the_whole_model_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    blocks, inputs = TeacherBlocks(tiny_model(INSEPARABLE["mpnet"])), padded_inputs()
    use_everything(blocks, inputs)
    assert [record.getMessage() for record in caplog.records] == [
        "A mpnet teacher cannot be run block by block: every stage runs all of it"
    ]


@pytest.mark.parametrize(
    "config",
    [
        FNetConfig(**{k: v for k, v in COMMON.items() if k != "num_attention_heads"}),
        SqueezeBertConfig(**COMMON, embedding_size=WIDTH),
    ],
    ids=lambda config: config.model_type,
)
def test_families_without_attention_maps_teach_features_only(config: PretrainedConfig) -> None:
    model, inputs = tiny_model(config), padded_inputs()
    blocks = TeacherBlocks(model)
    assert blocks.run(blocks.embed(inputs), inputs, 0, 1).shape == (3, LENGTH, WIDTH)
    with pytest.raises(TeacherError, match=f"a {config.model_type} model cannot teach attention"):
        blocks.maps(blocks.embed(inputs), inputs, 0)
