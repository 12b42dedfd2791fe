"""What a teacher says about a batch: its feature maps, attention maps and masked-LM logits.

Works for every `transformers` encoder with a masked-LM head, whatever its family.

Shapes: B sequences, S tokens, N teacher width, H teacher heads, L teacher blocks, M masked
tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from flashdistill.models.inputs import Inputs
from flashdistill.models.single_blocks import accepted_inputs, view_with
from flashdistill.models.teacher_blocks import TeacherBlocks


@dataclass(frozen=True)
class Shape:
    """The sizes of a teacher that distillation has to know."""

    num_blocks: int
    hidden_size: int
    num_heads: int
    vocab_size: int
    max_positions: int


class Teacher:
    """A frozen masked-LM encoder.

    The head is called apart from the body, on masked tokens only, through the model's own
    forward with its body replaced; so no family needs code of its own. Single blocks are run
    through ``blocks``.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model.eval().requires_grad_(False)
        self.blocks = TeacherBlocks(model)
        self._head = head_of(model)

    @property
    def body(self) -> nn.Module:
        return self.model.base_model

    @property
    def shape(self) -> Shape:
        return model_shape(self.model.config)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where inputs have to be."""
        return self.model.device

    def to(self, device: torch.device | str) -> Self:
        """Move the weights, in place."""
        model: Any = self.model
        model.to(device)
        # MobileBERT's is put together from several weights.
        self.__dict__.pop("decoder_matrix", None)
        return self

    @torch.no_grad()
    def masked_features(self, inputs: Inputs, positions: torch.Tensor) -> torch.Tensor:
        """The last feature map at the masked tokens, [M, N].

        It determines the logits and is V/N times smaller, so this is what is kept for later.
        """
        hidden = self.body(**accepted_inputs(self.model.config, inputs))[0]
        return hidden.flatten(0, 1).index_select(0, positions)

    @torch.no_grad()
    def mlm_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [M, V] of the masked-LM head on `masked_features` [M, N]."""
        return self._head(features)

    @cached_property
    def decoder_matrix(self) -> torch.Tensor:
        """What the head multiplies its last features with, [V, N_d]: logits = features @ matrix.T + bias."""
        decoder: Any = self.model.get_output_embeddings()
        extension = _mobilebert_extension(self.model)
        return decoder.weight if extension is None else torch.cat([decoder.weight, extension.T], dim=1)

    @property
    def decoder_bias(self) -> torch.Tensor | None:
        """[V], or None where the head has none."""
        decoder: Any = self.model.get_output_embeddings()
        return decoder.bias

    @torch.no_grad()
    def decoder_inputs(self, features: torch.Tensor) -> torch.Tensor:
        """What the head makes of features [M, N] before `decoder_matrix`, [M, N_d]."""
        captured: list[torch.Tensor] = []
        if _mobilebert_extension(self.model) is None:
            decoder: Any = self.model.get_output_embeddings()
            hook = decoder.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
        else:
            head: Any = self.model.cls
            hook = head.predictions.transform.register_forward_hook(lambda _, __, output: captured.append(output))
        try:
            self._head(features)
        finally:
            hook.remove()
        return captured[0].flatten(0, -2)


def _mobilebert_extension(model: PreTrainedModel) -> torch.Tensor | None:
    """MobileBERT extends its narrow embedding table to the hidden size: [N - e, V]; None for others."""
    if model.config.model_type != "mobilebert":
        return None
    head: Any = model.cls
    return head.predictions.dense.weight


class _FixedOutput(nn.Module):
    """Stands in for a model's body and returns what it was given."""

    hidden: torch.Tensor

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=self.hidden)  # type: ignore[arg-type]


def head_of(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """The masked-LM head of any family: features [M, N] → logits [M, V].

    It is the model's own forward with a body that returns the given features.
    """
    slot = _FixedOutput()
    view = view_with(model, {model.base_model_prefix: slot})

    def head(features: torch.Tensor) -> torch.Tensor:
        slot.hidden = features.unsqueeze(0)
        return view(input_ids=torch.zeros(1, 1, dtype=torch.long, device=features.device)).logits[0]

    return head


class MaskedTokenHead(nn.Module):
    """A trainable masked-LM model that computes logits at masked tokens only.

    Forward: ``inputs`` as the body takes them and ``positions`` [M] → logits [M, V].
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        # A function, so that the head is not in the module tree twice.
        self._head = head_of(model)

    def forward(self, inputs: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
        body: Any = self.model.base_model
        hidden = body(**inputs)[0]
        return self._head(hidden.flatten(0, 1).index_select(0, positions))


def model_shape(config: PretrainedConfig) -> Shape:
    """The sizes of a model by its configuration, whatever the family calls them."""
    return Shape(
        num_blocks=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        vocab_size=config.vocab_size,
        max_positions=usable_positions(config),
    )


def usable_positions(config: PretrainedConfig) -> int:
    """The longest sequence; RoBERTa's table begins behind the padding index."""
    positions = int(config.max_position_embeddings)
    offset_families = ("roberta", "xlm-roberta", "camembert")
    return positions - config.pad_token_id - 1 if config.model_type in offset_families else positions


@torch.no_grad()
def slice_vocabulary(model: PreTrainedModel, kept: np.ndarray) -> PreTrainedModel:
    """The same model for a vocabulary of which only the entries ``kept`` remain.

    Args:
        kept: [new size], old ids in their new order.

    Every weight with an axis as long as the vocabulary is sliced along it.
    """
    old_size = model.config.vocab_size
    config = copy.deepcopy(model.config)
    config.vocab_size = len(kept)
    family: Any = type(model)
    smaller = family._from_config(config, attn_implementation="eager", dtype=torch.float32)
    rows = torch.from_numpy(np.asarray(kept, dtype=np.int64))
    source = model.state_dict()
    for name, target in smaller.state_dict().items():
        values = source[name]
        for axis, length in enumerate(values.shape):
            if length == old_size and target.shape[axis] == len(kept):
                values = values.index_select(axis, rows)
        target.copy_(values)
    return smaller
