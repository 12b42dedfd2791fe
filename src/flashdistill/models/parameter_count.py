"""Parameter counts of the student templates as formulas, without building a model.

Counted: embeddings and blocks. Not counted, as in the paper: pooler, MLM head, NSP head.
The formulas reproduce every row of the paper's Table 2.
"""

from __future__ import annotations

from flashdistill.core.architecture import Architecture, StudentFamily


def count_parameters(architecture: Architecture, family: StudentFamily) -> int:
    """Parameters of the student's encoder.

    Raises:
        ValueError: the family's template is unknown.
    """
    return _embeddings(architecture, family) + family.depth(architecture) * _block(architecture, family.template)


def _embeddings(architecture: Architecture, family: StudentFamily) -> int:
    h, e = architecture.hidden_size, family.embedding_size
    trigram_transform = 3 * e * h + h
    norm = 2 * h
    return family.vocab_size * e + trigram_transform + (family.max_positions + family.type_vocab_size) * h + norm


def _block(architecture: Architecture, template: str) -> int:
    """One block; ``3b`` beside a matrix is its bias and the affine norm's weight and bias."""
    h, b, i = architecture.hidden_size, architecture.bottleneck_size, architecture.intermediate_size
    input_bottleneck = h * b + 3 * b
    attention_output = b * b + 3 * b
    feedforward = architecture.num_feedforward * (2 * b * i + i + 3 * b)
    output_bottleneck = b * h + 3 * h
    value = h * b + b
    if template == "autodistill":
        query_key = 2 * (h * b + b)
    elif template == "mobilebert":
        shared_bottleneck = h * b + 3 * b
        query_key = shared_bottleneck + 2 * (b * b + b)
    else:
        raise ValueError(f"unknown template {template!r}")
    return input_bottleneck + query_key + value + attention_output + feedforward + output_bottleneck
