"""Tiny teachers of many families, those that can be run block by block and those that cannot."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    AlbertConfig,
    AutoModelForMaskedLM,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MobileBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from flashdistill.models.inputs import Inputs, model_inputs
from flashdistill.models.single_blocks import accepted_inputs
from flashdistill.models.students import AutoDistillForPreTraining
from flashdistill.testing.tiny import VOCAB_SIZE, TinyData

LENGTH, NUM_BLOCKS, HEADS, WIDTH = 12, 3, 2, 16
"""Of the batches and of every teacher here."""
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "hidden_size": WIDTH, "num_hidden_layers": NUM_BLOCKS, "num_attention_heads": HEADS,
    "intermediate_size": 20, "initializer_range": 0.3, "max_position_embeddings": 32,
}  # fmt: skip
BERT = BertConfig(**COMMON)
_MOBILEBERT: dict[str, Any] = COMMON | {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 2}
FAMILIES: dict[str, PretrainedConfig] = {
    "bert": BERT,
    "roberta": RobertaConfig(**COMMON, type_vocab_size=1),
    "electra": ElectraConfig(**COMMON, embedding_size=8),
    "distilbert": DistilBertConfig(
        vocab_size=VOCAB_SIZE, dim=WIDTH, n_layers=NUM_BLOCKS, n_heads=HEADS, hidden_dim=20, initializer_range=0.3
    ),
    "albert": AlbertConfig(**COMMON, embedding_size=8),
    "mobilebert": MobileBertConfig(**_MOBILEBERT),
    "autodistill-no_norm": MobileBertConfig(**_MOBILEBERT, key_query_shared_bottleneck=False),
    "autodistill-layer_norm": MobileBertConfig(
        **_MOBILEBERT, key_query_shared_bottleneck=False, normalization_type="layer_norm", hidden_act="gelu"
    ),
}
INSEPARABLE: dict[str, PretrainedConfig] = {
    "deberta-v2": DebertaV2Config(**COMMON, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "mpnet": MPNetConfig(**COMMON),
}


def tiny_model(config: PretrainedConfig, implementation: str = "eager") -> PreTrainedModel:
    """A model whose random weights depend on its configuration alone."""
    config = copy.deepcopy(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if getattr(config, "key_query_shared_bottleneck", True):
            return AutoModelForMaskedLM.from_config(config, attn_implementation=implementation).eval()
        config._attn_implementation = implementation
        return AutoDistillForPreTraining(config).eval()  # type: ignore[arg-type]


def padded_inputs(step: int = 0) -> Inputs:
    """Three sequences of `LENGTH` tokens, [3, S], with padding in one of them at least."""
    inputs = model_inputs(TinyData(length=LENGTH).batch(step, 3))
    assert (inputs["attention_mask"] == 0).any()
    return inputs


def whole_model(model: PreTrainedModel, inputs: Inputs) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """All hidden states, each [B, S, N], and attention maps, each [B, H, S, S], by the whole model in eager mode."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    accepted = accepted_inputs(model.config, inputs)
    with torch.no_grad():
        output = eager.base_model(**accepted, output_hidden_states=True, output_attentions=True)
    return list(output.hidden_states), list(output.attentions)
