"""A teacher taken apart: what enters its first block, and the maps of one block at a time.

A stage of progressive distillation looks at one block. Here that block is called by itself, so its
cost does not grow with the depth of the teacher, and attention probabilities are formed for it
alone, whatever attention implementation the model runs. Nothing is ever changed in the model:
modules are swapped in shallow views of it.

Shapes: B sequences, S tokens, N teacher width, H teacher heads, d width of a head, L teacher
blocks.
"""

from __future__ import annotations

import copy
import logging
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from flashdistill.core.errors import TeacherError
from flashdistill.models.inputs import Inputs
from flashdistill.models.single_blocks import (
    BlockMaps,
    BlockStrategy,
    NotSeparableError,
    SingleBlocks,
    accepted_inputs,
)

logger = logging.getLogger(__name__)


class TeacherBlocks:
    """The blocks of a frozen encoder, to be run singly; safe to share between threads.

    The blocks are called directly where that gives what the whole model gives. It is checked on a
    small random batch, once for every sequence length, for some families attend differently over
    long sequences. Families that fail the check (their attention is more than softmax(QKᵀ), or
    something happens between the blocks) are answered from forwards of the whole model: slower,
    but never wrong.

    ``hidden`` is always the teacher's own hidden state of the same ``inputs``. Weights must not
    change while they are used here: what was computed for the last batch is kept.
    """

    def __init__(self, model: PreTrainedModel):
        self._model_type = model.config.model_type
        self._num_blocks = model.config.num_hidden_layers
        self._single = SingleBlocks(model)
        self._whole = _WholeModel(model)
        self._checked_lengths: set[int] = set()
        self._agrees = True

    @torch.no_grad()
    def embed(self, inputs: Inputs) -> torch.Tensor:
        """What enters block 0, [B, S, N]."""
        return self._strategy(_length(inputs)).embed(inputs)

    @torch.no_grad()
    def run(self, hidden: torch.Tensor, inputs: Inputs, first: int, last: int) -> torch.Tensor:
        """Feature map after the blocks ``first`` … ``last`` − 1 (numbered from 0).

        Args:
            hidden: [B, S, N], what enters block ``first``.

        Returns:
            [B, S, N]; ``hidden`` itself if ``first`` equals ``last``.
        """
        if not 0 <= first <= last <= self._num_blocks:
            raise ValueError(f"blocks {first} to {last} of a teacher with {self._num_blocks}")
        return hidden if first == last else self._strategy(_length(inputs)).run(hidden, inputs, first, last)

    @torch.no_grad()
    def maps(self, hidden: torch.Tensor, inputs: Inputs, block: int, projections: bool = False) -> BlockMaps:
        """The maps of block ``block`` (from 0).

        Args:
            hidden: [B, S, N], what enters the block.
            projections: also return queries, keys and values.

        Raises:
            TeacherError: projections of a family whose blocks do not show them.
        """
        if not 0 <= block < self._num_blocks:
            raise ValueError(f"block {block} of a teacher with {self._num_blocks}")
        if projections:
            self.require_projections(_length(inputs))
        return self._strategy(_length(inputs)).maps(hidden, inputs, block, projections)

    @torch.no_grad()
    def separable(self, length: int) -> bool:
        """True if single blocks are called; False if the whole model has to run for sequences of ``length`` tokens."""
        return self._strategy(length) is self._single

    def require_projections(self, length: int) -> None:
        """Raises TeacherError if queries, keys and values cannot be had for sequences of ``length`` tokens."""
        if not self.separable(length):
            raise TeacherError(
                f"the relation loss cannot be used with a {self._model_type} teacher, whose attention is not formed "
                "from queries, keys and values alone; use the attention and feature-map losses instead"
            )

    def _strategy(self, length: int) -> BlockStrategy:
        if self._agrees and length not in self._checked_lengths:
            self._agrees = _gives_the_same(self._single, self._whole, length)
            self._checked_lengths.add(length)
            if not self._agrees:
                logger.warning(
                    "A %s teacher cannot be run block by block: every stage runs all of it", self._model_type
                )
        return self._single if self._agrees else self._whole


def _length(inputs: Inputs) -> int:
    return inputs["input_ids"].shape[1]


# --- the whole model ---


class _WholeModel(BlockStrategy):
    """Runs all of the model for every answer, so ``hidden`` is not needed."""

    def __init__(self, model: PreTrainedModel):
        self._model = model

    def embed(self, inputs: Inputs) -> torch.Tensor:
        return self.outputs(inputs)[0][0]

    def run(self, hidden: torch.Tensor, inputs: Inputs, first: int, last: int) -> torch.Tensor:
        return self.outputs(inputs)[0][last]

    def maps(self, hidden: torch.Tensor, inputs: Inputs, block: int, projections: bool) -> BlockMaps:
        features, attentions = self.outputs(inputs, with_attention=True)
        attention = attentions[block].float()
        rows = attention.transpose(1, 2)[inputs["attention_mask"].bool()]
        # Some families call by this name the scores before the softmax.
        if not ((rows >= 0).all() and ((rows.sum(-1) - 1).abs() < 0.05).all()):
            raise self._without_attention_maps()
        return BlockMaps(features[block + 1], attention)

    def _without_attention_maps(self) -> TeacherError:
        return TeacherError(
            f"a {self.config.model_type} model cannot teach attention: its blocks do not give attention maps over "
            "all pairs of tokens; use the feature-map loss alone, or another teacher"
        )

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def config(self) -> PretrainedConfig:
        return self._model.config

    def outputs(
        self, inputs: Inputs, with_attention: bool = False
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """All L + 1 hidden states, each [B, S, N], and all L attention maps, each [B, H, S, S], if wanted.

        Raises:
            TeacherError: the family has no such maps.
        """
        accepted = accepted_inputs(self.config, inputs)
        output: Any = self._eager_body(**accepted, output_hidden_states=True, output_attentions=with_attention)
        count, (batch, length) = self.config.num_hidden_layers, inputs["input_ids"].shape
        hidden_states = output.get("hidden_states") or ()
        if len(hidden_states) != count + 1 or any(hidden.shape[:2] != (batch, length) for hidden in hidden_states):
            raise TeacherError(
                f"a {self.config.model_type} model cannot be a teacher: its {count} blocks do not "
                "give one feature map each, with a vector for every token; use another teacher"
            )
        if not with_attention:
            return hidden_states, ()
        attentions = output.get("attentions") or ()
        if len(attentions) != count or any(maps.shape[2:] != (length, length) for maps in attentions):
            raise self._without_attention_maps()
        return hidden_states, attentions

    @cached_property
    def _eager_body(self) -> nn.Module:
        """The body with attention that shows its probabilities.

        A copy of the module tree with a configuration of its own. It shares the dictionaries of
        the parameters and buffers, so it follows the model from device to device.
        """
        body = cast(PreTrainedModel, self._model.base_model)
        shared = [store for module in body.modules() for store in (module._parameters, module._buffers)]
        eager: PreTrainedModel = copy.deepcopy(body, {id(store): store for store in shared})
        eager.set_attn_implementation("eager")
        return eager


# --- the check ---


def _gives_the_same(single: SingleBlocks, whole: _WholeModel, length: int) -> bool:
    """Whether every block, called by itself, gives the whole model's maps of a random batch."""
    with torch.autocast(whole.device.type, enabled=False):
        inputs = _random_inputs(whole.config, length, whole.device)
        real = inputs["attention_mask"].bool()
        try:
            features, attentions = whole.outputs(inputs, with_attention=True)
            if not _close(single.embed(inputs)[real], features[0][real]):
                return False
            for block, attention in enumerate(attentions):
                maps = single.maps(features[block], inputs, block, projections=True)
                # Padding counts neither as token nor as query: implementations differ there.
                rows = maps.attention.transpose(1, 2)[real], attention.transpose(1, 2)[real]
                if not (_close(maps.features[real], features[block + 1][real]) and _close(*rows)):
                    return False
        except torch.OutOfMemoryError:
            raise
        except (TeacherError, NotSeparableError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            # Code of any family ran in a way it was not written for; how it failed tells nothing more.
            return False
    return True


def _random_inputs(config: PretrainedConfig, length: int, device: torch.device) -> Inputs:
    """Two sequences of random tokens, the second one padded."""
    generator = torch.Generator().manual_seed(0)
    attention_mask = torch.ones(2, length, dtype=torch.long)
    attention_mask[1, (2 * length + 2) // 3 :] = 0
    inputs = {
        "input_ids": torch.randint(config.vocab_size, (2, length), generator=generator),
        "token_type_ids": torch.zeros(2, length, dtype=torch.long),
        "attention_mask": attention_mask,
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal up to rounding, by the norm of the difference: in half precision single entries can be far off."""
    if one.shape != other.shape:
        return False
    exact = other.dtype is torch.float32 and torch.get_float32_matmul_precision() == "highest"
    tolerance = 1e-3 if exact else 5e-2
    difference = (one.float() - other.float()).norm()
    return bool(difference <= tolerance * other.float().norm())
