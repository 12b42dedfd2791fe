"""Teachers that are pre-trained from scratch: building them, and loading them with both heads.

Shapes: B sequences, S tokens, M masked tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    PretrainedConfig,
    PreTrainedModel,
)

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.models.foreign import WEIGHTS, load_config
from flashdistill.models.ib_bert import AutoDistillForMaskedLM, projects_block_input
from flashdistill.models.inputs import Inputs
from flashdistill.models.settings import PretrainSettings
from flashdistill.models.students import AutoDistillForPreTraining, no_empty_tensor_warning, student_config

POSITIONS = 512
"""The longest sequence that a pre-trained teacher takes, in tokens."""

_NEXT_SENTENCE_WEIGHT = "cls.seq_relationship.weight"


class PretrainingHeads(nn.Module):
    """A model in its pre-training form, with masked-LM logits at masked tokens only.

    Forward: the body's ``inputs`` and ``positions`` [M] of [B·S] → masked-LM logits [M, V] and
    next-sentence logits [B, 2], class 1 "random".
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model: Any = self.model
        hidden, pooled = model.base_model(**inputs)[:2]
        return model.cls(hidden.flatten(0, 1).index_select(0, positions), pooled)


def teacher_name(settings: PretrainSettings) -> str:
    """``BERT 6x256``, ``IB-BERT 24x512``: template, blocks and width."""
    return f"{settings.template.upper()} {settings.num_layers}x{settings.hidden_size}"


def teacher_config(settings: PretrainSettings, vocab_size: int, pad_token_id: int) -> PretrainedConfig:
    """The `transformers` configuration of a template at the given sizes; dropout is off for ``ib-bert``."""
    if settings.template == "bert":
        return BertConfig(
            vocab_size=vocab_size,
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            intermediate_size=settings.intermediate_size,
            max_position_embeddings=POSITIONS,
            **{"pad_token_id": pad_token_id},  # type: ignore[arg-type]
        )
    config = student_config(*ib_bert_sizes(settings, vocab_size, pad_token_id))
    config.normalization_type = "layer_norm"
    config.hidden_act = "gelu"
    return config


def ib_bert_sizes(
    settings: PretrainSettings, vocab_size: int, pad_token_id: int = 0
) -> tuple[Architecture, StudentFamily]:
    """The inverted bottleneck in the words of the student's block, whose counterpart it is.

    `models.parameter_count.count_parameters` counts it, too: layer norm has as many parameters
    as the student's.
    """
    assert settings.bottleneck_size is not None
    assert settings.num_feedforward is not None
    assert settings.embedding_size is not None
    architecture = Architecture(
        settings.hidden_size,
        settings.bottleneck_size,
        settings.num_heads,
        settings.intermediate_size,
        settings.num_feedforward,
    )
    family = StudentFamily(
        template="autodistill",
        num_blocks=settings.num_layers,
        vocab_size=vocab_size,
        embedding_size=settings.embedding_size,
        max_positions=POSITIONS,
        pad_token_id=pad_token_id,
    )
    return architecture, family


def build_teacher(config: PretrainedConfig, seed: int, next_sentence: bool) -> PreTrainedModel:
    """A template's model with random weights that depend on ``seed`` alone.

    Args:
        next_sentence: with a next-sentence head beside the masked-LM head (see `PretrainingHeads`).
    """
    if projects_block_input(config):
        model_class: Any = AutoDistillForPreTraining if next_sentence else AutoDistillForMaskedLM
    else:
        model_class = BertForPreTraining if next_sentence else BertForMaskedLM
    with torch.random.fork_rng(devices=[]), no_empty_tensor_warning():
        torch.manual_seed(seed % 2**63)
        return model_class._from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def has_next_sentence_head(model: PreTrainedModel) -> bool:
    """Whether a model is in its pre-training form, with both heads."""
    return isinstance(model, BertForPreTraining | AutoDistillForPreTraining)


def load_with_next_sentence_head(directory: Path) -> PreTrainedModel | None:
    """A teacher of `build_teacher` from its directory, in evaluation mode; None if it has no such head."""
    with safe_open(directory / WEIGHTS, framework="pt") as weights:
        if _NEXT_SENTENCE_WEIGHT not in weights.keys():  # noqa: SIM118 (not a mapping)
            return None
    config = load_config(directory)
    model_class: Any = AutoDistillForPreTraining if projects_block_input(config) else BertForPreTraining
    with no_empty_tensor_warning():
        model = model_class.from_pretrained(
            str(directory), config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    return model.eval()
