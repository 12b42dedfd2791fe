"""A student taken apart: embeddings, single blocks, and heads at chosen tokens.

Shapes: B sequences, S tokens, h hidden size, H heads, M masked tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
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


def run_block_with_attention(
    student: MobileBertForPreTraining, index: int, hidden: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A block's feature map [B, S, h] and its attention as log-probabilities [B, H, S, S].

    The scores are formed from the block's own queries and keys, so this works with every
    attention implementation, also those that never hold the probabilities. Keys at padding get
    −inf.
    """
    attention: Any = block(student, index).attention.self
    captured: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda module, args, output, name=name: captured.__setitem__(name, output)
        )
        for name in ("query", "key")
    ]
    try:
        features = run_block(student, index, hidden, mask)
    finally:
        for hook in hooks:
            hook.remove()
    heads, size = attention.num_attention_heads, attention.attention_head_size
    query, key = (captured[name].unflatten(-1, (heads, size)).transpose(1, 2) for name in ("query", "key"))
    scores = query @ key.transpose(2, 3) * attention.scaling
    return features, scores.masked_fill(mask < 0, float("-inf")).log_softmax(-1)


def mlm_logits(student: MobileBertForPreTraining, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits [M, V] at flat token positions [M] of the last feature map [B, S, h]."""
    return student.cls.predictions(hidden.flatten(0, 1).index_select(0, positions))


def nsp_logits(student: MobileBertForPreTraining, hidden: torch.Tensor) -> torch.Tensor:
    """Next-sentence logits [B, 2] of the last feature map [B, S, h]; class 1 is "random"."""
    pooler: Any = student.mobilebert.pooler
    return student.cls.seq_relationship(pooler(hidden))


def last_hidden(student: MobileBertForPreTraining, inputs: Inputs) -> torch.Tensor:
    """The last feature map [B, S, h]."""
    model: Any = student.mobilebert
    return model(**inputs).last_hidden_state
