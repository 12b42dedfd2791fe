"""A student taken apart: embeddings, single blocks, and heads at chosen tokens.

Shapes: B sequences, S tokens, h hidden size, H heads, M masked tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from flashdistill.models.inputs import Inputs


def embed(student: MobileBertForPreTraining, inputs: Inputs) -> torch.Tensor:
    """Embedding output [B, S, h]."""
    embeddings: Any = student.mobilebert.embeddings
    return embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"])


def additive_mask(attention_mask: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[B, S] of ones and zeros → [B, 1, 1, S] to be added to attention scores."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


def num_blocks(student: MobileBertForPreTraining) -> int:
    layers: Any = student.mobilebert.encoder.layer
    return len(layers)


def block(student: MobileBertForPreTraining, index: int) -> Any:
    """The module of block ``index`` (from 0)."""
    layers: Any = student.mobilebert.encoder.layer
    return layers[index]


def run_block(student: MobileBertForPreTraining, index: int, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Feature map after block ``index`` (from 0): [B, S, h] → [B, S, h]; ``mask`` is additive."""
    return block(student, index)(hidden, mask)


@contextmanager
def captured_projections(student: MobileBertForPreTraining, index: int) -> Iterator[dict[str, torch.Tensor]]:
    """Queries, keys and values [B, S, b] of block ``index``, filled in when the block runs.

    They serve every attention implementation, also those that never hold the probabilities.
    """
    attention: Any = block(student, index).attention.self
    captured: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda module, args, output, name=name: captured.__setitem__(name, output)
        )
        for name in ("query", "key", "value")
    ]
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


def log_attention(
    student: MobileBertForPreTraining, index: int, projections: dict[str, torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """A block's attention as log-probabilities [B, H, S, S], −inf at padding keys; ``mask`` is additive."""
    attention: Any = block(student, index).attention.self
    heads, size = attention.num_attention_heads, attention.attention_head_size
    query, key = (projections[name].unflatten(-1, (heads, size)).transpose(1, 2) for name in ("query", "key"))
    scores = (query @ key.transpose(2, 3)).float() * attention.scaling
    return scores.masked_fill(mask < 0, float("-inf")).log_softmax(-1)


def mlm_logits(student: MobileBertForPreTraining, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits [M, V] at flat token positions [M] of the last feature map [B, S, h].

    The decoder is the word table, extended to the hidden size by a dense layer. The two are
    multiplied one after the other; the model's own forward copies both into one matrix first,
    which for a large vocabulary costs as much as several blocks.
    """
    head: Any = student.cls.predictions
    features = head.transform(hidden.flatten(0, 1).index_select(0, positions))
    size = head.decoder.in_features
    logits = nn.functional.linear(features[:, :size], head.decoder.weight, head.decoder.bias)
    return torch.addmm(logits, features[:, size:], head.dense.weight) if head.dense.weight.numel() else logits


def pooler(student: MobileBertForPreTraining) -> Any:
    """The module between the last feature map and the next-sentence head."""
    return student.mobilebert.pooler


def nsp_logits(student: MobileBertForPreTraining, hidden: torch.Tensor) -> torch.Tensor:
    """Next-sentence logits [B, 2] of the last feature map [B, S, h]; class 1 is "random"."""
    return student.cls.seq_relationship(pooler(student)(hidden))


def last_hidden(student: MobileBertForPreTraining, inputs: Inputs) -> torch.Tensor:
    """The last feature map [B, S, h]."""
    model: Any = student.mobilebert
    return model(**inputs).last_hidden_state
