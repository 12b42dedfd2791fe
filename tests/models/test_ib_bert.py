"""IB-BERT and BERT as templates to pre-train: their sizes, their mathematics, their directories.

Shapes: B sequences, S tokens, h width of the feature maps, b width inside a block, H heads.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, MobileBertConfig, MobileBertForMaskedLM, PreTrainedModel

from flashdistill.models.delivered import load_student
from flashdistill.models.foreign import load_config, load_masked_lm
from flashdistill.models.ib_bert import AutoDistillForMaskedLM, projects_block_input
from flashdistill.models.inputs import model_inputs
from flashdistill.models.parameter_count import count_parameters
from flashdistill.models.settings import PretrainSettings
from flashdistill.models.students import encoder_parameters
from flashdistill.models.teacher import Teacher
from flashdistill.models.teacher_templates import (
    PretrainingHeads,
    build_teacher,
    has_next_sentence_head,
    ib_bert_sizes,
    load_with_next_sentence_head,
    teacher_config,
    teacher_name,
)
from flashdistill.testing.tiny import VOCAB_SIZE, TinyData

IB_BERT_LARGE = 294_205_184
"""Encoder parameters of the paper's teacher at a vocabulary of 30522, counted exactly."""

IB_BERT = {"hidden_size": 12, "bottleneck_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 20}
BERT = {"hidden_size": 12, "num_layers": 2, "num_heads": 2, "intermediate_size": 20}


def settings(template: str) -> PretrainSettings:
    given = {"ib-bert": IB_BERT | {"embedding_size": 8, "num_feedforward": 2}, "bert": BERT}[template]
    return PretrainSettings.model_validate({"template": template, "steps": 1, **given})


def tiny(template: str, next_sentence: bool = True, seed: int = 0) -> PreTrainedModel:
    return build_teacher(teacher_config(settings(template), VOCAB_SIZE, 0), seed, next_sentence).eval()


def test_the_papers_teacher_has_exactly_its_parameters() -> None:
    large = PretrainSettings.model_validate({"template": "ib-bert", "steps": 1})
    assert count_parameters(*ib_bert_sizes(large, 30522)) == IB_BERT_LARGE
    with torch.device("meta"):
        model: Any = build_teacher(teacher_config(large, 30522, 0), 0, next_sentence=True)
        masked: Any = build_teacher(teacher_config(large, 30522, 0), 0, next_sentence=False)
    assert encoder_parameters(model) == IB_BERT_LARGE
    assert sum(parameter.numel() for parameter in masked.base_model.parameters()) == IB_BERT_LARGE
    assert teacher_name(large) == "IB-BERT 24x512"


def layer_norm(values: np.ndarray, norm: Any) -> np.ndarray:
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return scaled * norm.weight.numpy() + norm.bias.numpy()


def dense(values: np.ndarray, layer: Any) -> np.ndarray:
    return values @ layer.weight.numpy().T + layer.bias.numpy()


def gelu(values: np.ndarray) -> np.ndarray:
    return 0.5 * values * (1.0 + np.vectorize(math.erf)(values / 2**0.5))


@torch.no_grad()
def test_a_block_computes_the_inverted_bottleneck() -> None:
    model: Any = tiny("ib-bert")
    for parameter in model.parameters():  # norms and biases that do something
        parameter.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    block = model.mobilebert.encoder.layer[0]
    x = np.random.default_rng(0).normal(size=(5, 12))
    attention = block.attention.self
    narrow = layer_norm(dense(x, block.bottleneck.input.dense), block.bottleneck.input.LayerNorm)
    q, k, v = (dense(x, layer).reshape(5, 2, 8) for layer in (attention.query, attention.key, attention.value))
    scores = np.einsum("shd,thd->hst", q, k) / np.sqrt(8)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("hst,thd->shd", weights, v).reshape(5, 16)
    inner = layer_norm(dense(mixed, block.attention.output.dense) + narrow, block.attention.output.LayerNorm)
    feedforward = block.ffn[0]
    grown = gelu(dense(inner, feedforward.intermediate.dense))
    inner = layer_norm(dense(grown, feedforward.output.dense) + inner, feedforward.output.LayerNorm)
    grown = gelu(dense(inner, block.intermediate.dense))
    inner = layer_norm(dense(grown, block.output.dense) + inner, block.output.LayerNorm)
    out = block.output.bottleneck
    expected = layer_norm(dense(inner, out.dense) + x, out.LayerNorm)
    got = block(torch.from_numpy(x).float()[None])[0]
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("template", ["bert", "ib-bert"])
@torch.no_grad()
def test_heads_at_masked_tokens_are_those_of_the_whole_model(template: str) -> None:
    model = tiny(template)
    batch = TinyData().batch(0, 3)
    inputs, positions = model_inputs(batch), torch.from_numpy(batch.masked_positions)
    expected = model(**inputs)
    mlm, nsp = PretrainingHeads(model)(inputs, positions)
    torch.testing.assert_close(mlm, expected.prediction_logits.flatten(0, 1)[positions])
    torch.testing.assert_close(nsp, expected.seq_relationship_logits)


@pytest.mark.parametrize("next_sentence", [True, False])
@pytest.mark.parametrize("template", ["bert", "ib-bert"])
@torch.no_grad()
def test_a_saved_teacher_loads_again(template: str, next_sentence: bool, tmp_path: Path) -> None:
    model = tiny(template, next_sentence)
    model.save_pretrained(tmp_path)
    batch = TinyData().batch(0, 3)
    inputs, positions = model_inputs(batch), torch.from_numpy(batch.masked_positions)
    output = model(**inputs)
    expected = output.prediction_logits if next_sentence else output.logits
    loaded, has_head = load_masked_lm(tmp_path, load_config(tmp_path))
    assert has_head
    torch.testing.assert_close(loaded.eval()(**inputs).logits, expected)
    teacher = Teacher(loaded)
    features = teacher.masked_features(inputs, positions)
    torch.testing.assert_close(teacher.mlm_logits(features), expected.flatten(0, 1)[positions])
    decoded = teacher.decoder_inputs(features) @ teacher.decoder_matrix.T + teacher.decoder_bias
    torch.testing.assert_close(decoded, expected.flatten(0, 1)[positions])
    both = load_with_next_sentence_head(tmp_path)
    assert (both is not None) == next_sentence == has_next_sentence_head(model)
    if both is not None:
        torch.testing.assert_close(both(**inputs).seq_relationship_logits, output.seq_relationship_logits)


@torch.no_grad()
def test_an_ib_bert_with_both_heads_loads_as_the_papers_block(tmp_path: Path) -> None:
    model = tiny("ib-bert")
    model.save_pretrained(tmp_path)
    inputs = model_inputs(TinyData().batch(0, 2))
    torch.testing.assert_close(load_student(tmp_path)(**inputs).prediction_logits, model(**inputs).prediction_logits)


@pytest.mark.parametrize(
    "variant",
    [
        {},  # queries and keys from a shared bottleneck
        {"key_query_shared_bottleneck": False, "use_bottleneck_attention": True},
        {"key_query_shared_bottleneck": False, "use_bottleneck": False},
    ],
)
@torch.no_grad()
def test_stock_mobilebert_directories_load_with_the_stock_class(variant: dict[str, bool], tmp_path: Path) -> None:
    config = MobileBertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        embedding_size=8, intra_bottleneck_size=8, **variant,
    )  # fmt: skip
    stock = AutoModelForMaskedLM.from_config(config).eval()
    stock.save_pretrained(tmp_path)
    found = load_config(tmp_path)
    assert not projects_block_input(found)
    loaded, has_head = load_masked_lm(tmp_path, found)
    assert (type(loaded), has_head) == (MobileBertForMaskedLM, True)
    inputs = model_inputs(TinyData().batch(0, 2))
    torch.testing.assert_close(loaded.eval()(**inputs).logits, stock(**inputs).logits)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = tiny("ib-bert", False, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, third = tiny("ib-bert", False, seed=5), tiny("ib-bert", False, seed=6)
    assert isinstance(first, AutoDistillForMaskedLM)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))
