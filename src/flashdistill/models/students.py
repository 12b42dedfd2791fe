"""Students built from data: an `Architecture` and a `StudentFamily`, never from a live model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import MobileBertConfig, MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily


def project_block_input(body: Any, config: MobileBertConfig) -> None:
    """Give every block query and key layers that take the block's input, not its bottleneck."""
    for block in body.encoder.layer:
        attention = block.attention.self
        attention.query = nn.Linear(config.hidden_size, attention.all_head_size)
        attention.key = nn.Linear(config.hidden_size, attention.all_head_size)


class AutoDistillForPreTraining(MobileBertForPreTraining):
    """The paper's student: MobileBERT whose queries and keys are projected from the block input.

    Stock MobileBERT cannot run this setting, because its query and key layers expect the
    bottleneck's width; they are replaced here. The result has exactly the parameter counts of
    the paper's Table 2.
    """

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        project_block_input(self.mobilebert, config)
        self.post_init()


STUDENT_CLASSES = {"mobilebert": MobileBertForPreTraining, "autodistill": AutoDistillForPreTraining}


@contextmanager
def no_empty_tensor_warning() -> Iterator[None]:
    """Silence torch where the MLM head extends the embedding table by no columns (hidden = embedding size)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors is a no-op")
        yield


def student_config(architecture: Architecture, family: StudentFamily) -> MobileBertConfig:
    """The `transformers` configuration of a student; dropout is off, as in distillation."""
    return MobileBertConfig(
        vocab_size=family.vocab_size,
        embedding_size=family.embedding_size,
        hidden_size=architecture.hidden_size,
        num_hidden_layers=family.depth(architecture),
        num_attention_heads=architecture.num_heads,
        intermediate_size=architecture.intermediate_size,
        intra_bottleneck_size=architecture.bottleneck_size,
        num_feedforward_networks=architecture.num_feedforward,
        max_position_embeddings=family.max_positions,
        type_vocab_size=family.type_vocab_size,
        pad_token_id=family.pad_token_id,
        use_bottleneck=True,
        use_bottleneck_attention=False,
        key_query_shared_bottleneck=family.template == "mobilebert",
        normalization_type="no_norm",
        hidden_act="relu",
        trigram_input=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **{"attn_implementation": "eager"},  # type: ignore[arg-type]
    )


def build_student(architecture: Architecture, family: StudentFamily, seed: int) -> MobileBertForPreTraining:
    """A student with random weights that depend on ``seed`` alone.

    Raises:
        ValueError: the architecture or the template is impossible.
    """
    if problem := architecture.problem():
        raise ValueError(f"{architecture}: {problem}")
    if family.template not in STUDENT_CLASSES:
        raise ValueError(f"unknown template {family.template!r}; allowed: {', '.join(STUDENT_CLASSES)}")
    with torch.random.fork_rng(devices=[]), no_empty_tensor_warning():
        torch.manual_seed(seed % 2**63)
        model = STUDENT_CLASSES[family.template](student_config(architecture, family))
    return model.eval()


def encoder_parameters(model: MobileBertForPreTraining) -> int:
    """Parameters of embeddings and blocks; pooler and heads are not counted, as in the paper."""
    encoder = model.mobilebert
    return sum(p.numel() for p in encoder.embeddings.parameters()) + sum(
        p.numel() for p in encoder.encoder.parameters()
    )
