"""What one call of a student's encoder has to compute and to move, as formulas of its sizes.

The last feature map is the result, as in a latency measurement: pooler and heads take no part.

Symbols::

    B batch, S sequence, T = B*S tokens, h hidden, b bottleneck, e embedding, i intermediate,
    F stacked feed-forward networks, V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flashdistill.core.architecture import Architecture, StudentFamily

_MASK = "attention_mask"


def encoder_flops(architecture: Architecture, family: StudentFamily, batch_size: int, sequence_length: int) -> int:
    """Floating-point operations of one call on ``[B, S]`` tokens; a multiply-add counts as two.

    Counted: dense layers and the two matrix products of attention, padding included. Not counted,
    as is usual: biases, residuals, norms, activations, softmax, table look-ups; together a few
    operations per element, which take their time in memory rather than in arithmetic units.

    Raises:
        ValueError: the family's template is unknown.
    """
    h, b, i = architecture.hidden_size, architecture.bottleneck_size, architecture.intermediate_size
    per_token = h * b + h * b + b * b + 2 * architecture.num_feedforward * b * i + b * h
    # In this order: bottleneck, value, attention output, feed-forward networks, output bottleneck.
    per_token += _query_key_products(architecture, family.template)
    attention = 2 * sequence_length * b
    per_block = per_token + attention
    embeddings = 3 * family.embedding_size * h
    return 2 * batch_size * sequence_length * (embeddings + family.depth(architecture) * per_block)


def encoder_bytes(
    architecture: Architecture,
    family: StudentFamily,
    batch_size: int,
    sequence_length: int,
    weight_bytes_per_element: int,
    activation_bytes: int,
) -> int:
    """Bytes that one call on ``[B, S]`` tokens must move at least: a lower bound.

    Counted: every weight read once, of the embedding tables only the rows of the tokens (each
    token another word, while the vocabulary lasts), in the serving graph, where norms are folded
    into the dense layers; the feature map ``[T, h]`` written once by the embeddings and read and
    written once by every block. What lies inside a block is taken to stay in the caches, and no
    weight is fetched twice; a runtime moves more. One whose weights fit in the caches moves less
    from memory: then the share of the memory's bandwidth can exceed one.

    Args:
        weight_bytes_per_element: of a stored weight, e.g. 4 for float32 and 1 for int8.
        activation_bytes: of an element of the feature map.

    Raises:
        ValueError: the family's template is unknown.
    """
    feature_map = batch_size * sequence_length * architecture.hidden_size
    maps = 1 + 2 * family.depth(architecture)
    weights = touched_weights(architecture, family, batch_size, sequence_length)
    return weights * weight_bytes_per_element + maps * feature_map * activation_bytes


def touched_weights(architecture: Architecture, family: StudentFamily, batch_size: int, sequence_length: int) -> int:
    """Weights that one call reads, in elements; a norm costs nothing but where a residual skips its layer."""
    h, b, i = architecture.hidden_size, architecture.bottleneck_size, architecture.intermediate_size
    tokens = batch_size * sequence_length
    rows = min(tokens, family.vocab_size) * family.embedding_size
    rows += (sequence_length + min(family.type_vocab_size, tokens)) * h
    embeddings = rows + 3 * family.embedding_size * h + h
    query_key_biases = 2 * b if family.template == "autodistill" else 3 * b
    attention = 2 * (h * b + b) + b * b + _query_key_products(architecture, family.template) + query_key_biases
    feedforward = architecture.num_feedforward * (2 * b * i + i + 2 * b)
    output_bottleneck = b * h + 2 * h
    return embeddings + family.depth(architecture) * (attention + feedforward + output_bottleneck)


def module_flops(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> int:
    """The same count as `encoder_flops` for any module, by running it without data.

    Nothing is computed and no weight is copied: all tensors are on the meta device, where every
    attention implementation is counted. Reads no input value, hence ``attention_mask``, which
    some models look into, is left out; it changes no count.

    Args:
        inputs: keyword arguments of the module's forward; only shapes and types matter.

    Raises:
        NotImplementedError, RuntimeError: the module's control flow depends on values.
    """
    weights = {name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    shapes = {name: tensor.to("meta") for name, tensor in inputs.items() if name != _MASK}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(module, weights, (), shapes)
    return counter.get_total_flops()


def _query_key_products(architecture: Architecture, template: str) -> int:
    """Multiply-adds per token of a block's query and key layers; also the elements of their matrices."""
    h, b = architecture.hidden_size, architecture.bottleneck_size
    if template == "autodistill":
        return 2 * h * b
    if template == "mobilebert":  # both from a shared bottleneck
        return h * b + 2 * b * b
    raise ValueError(f"unknown template {template!r}")
