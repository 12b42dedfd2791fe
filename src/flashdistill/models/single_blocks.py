"""Blocks called by themselves, with the arguments with which the model would call them.

Shapes: B sequences, S tokens, N width, H heads, d width of a head, L blocks.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from flashdistill.models.inputs import Inputs

PROJECTION_NAMES = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))
"""What families call the linear layers of queries, keys and values."""


@dataclass(frozen=True)
class BlockMaps:
    """What one block says about a batch.

    Attributes:
        features: [B, S, N], the block's output.
        attention: [B, H, S, S], float32; rows are probabilities over the keys, 0 at padding.
        queries, keys, values: each [B, H, S, d], or None where they were not asked for.
    """

    features: torch.Tensor
    attention: torch.Tensor
    queries: torch.Tensor | None = None
    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None


class BlockStrategy(ABC):
    """One way to answer; arguments as in `TeacherBlocks`."""

    @abstractmethod
    def embed(self, inputs: Inputs) -> torch.Tensor: ...

    @abstractmethod
    def run(self, hidden: torch.Tensor, inputs: Inputs, first: int, last: int) -> torch.Tensor: ...

    @abstractmethod
    def maps(self, hidden: torch.Tensor, inputs: Inputs, block: int, projections: bool) -> BlockMaps: ...


def accepted_inputs(config: PretrainedConfig, inputs: Inputs) -> Inputs:
    """The inputs a family takes: DistilBERT and RoBERTa know no second segment."""
    if getattr(config, "type_vocab_size", 0) > 1:
        return inputs
    return {name: value for name, value in inputs.items() if name != "token_type_ids"}


def view_with(module: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A view of ``module`` with other submodules at the dotted paths of ``replacements``.

    Only the modules on the way are copied, and their parameters are shared; ``module`` stays as it is.
    """
    nested: dict[str, dict[str, nn.Module]] = defaultdict(dict)
    children = dict(module._modules)
    for path, replacement in replacements.items():
        name, _, rest = path.partition(".")
        if rest:
            nested[name][rest] = replacement
        else:
            children[name] = replacement
    children |= {name: view_with(module.get_submodule(name), below) for name, below in nested.items()}
    view = copy.copy(module)
    view.__dict__["_modules"] = children
    return view


class NotSeparableError(Exception):
    """The model is not built from blocks that can be called singly."""


@dataclass(frozen=True)
class _BlockCall:
    """How the model calls a block, but for the hidden state."""

    block: nn.Module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        output = self.block(hidden, *self.arguments, **self.keywords)
        return output[0] if isinstance(output, tuple) else output


class _Recorder(nn.Module):
    """Stands in for a block: notes how it was called and hands the hidden state on."""

    def __init__(self, note: Callable[[torch.Tensor, tuple[Any, ...], dict[str, Any]], None]):
        super().__init__()
        self._note = note

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        self._note(hidden_states, arguments, keywords)
        return hidden_states


@dataclass(frozen=True)
class _Recording:
    """What enters block 0 of a batch, and how the model calls its blocks for it."""

    embedding: torch.Tensor
    calls: list[_BlockCall]
    tensors: list[torch.Tensor]
    state: object
    """Of the tensors and of PyTorch's modes when the recording was made."""

    def holds_for(self, tensors: list[torch.Tensor]) -> bool:
        """Whether ``tensors`` are the very ones of the recording and nobody has written to one since."""
        same = len(tensors) == len(self.tensors) and all(a is b for a, b in zip(tensors, self.tensors, strict=True))
        return same and self.state is not None and self.state == _state([*tensors, self.embedding])


def _state(tensors: list[torch.Tensor]) -> object:
    """What a recording depends on besides the identity of its tensors; None if it cannot be told."""
    if any(tensor.is_inference() for tensor in tensors):
        return None  # such tensors count no writes
    device = tensors[0].device.type
    modes = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device), torch.is_inference_mode_enabled()
    return modes, [tensor._version for tensor in tensors]


class SingleBlocks(BlockStrategy):
    """Calls the blocks themselves, with the arguments with which the model would call them."""

    def __init__(self, model: PreTrainedModel):
        self._body = model.base_model
        self._config = model.config
        self._last: _Recording | None = None

    def embed(self, inputs: Inputs) -> torch.Tensor:
        return self._recording(inputs).embedding

    def run(self, hidden: torch.Tensor, inputs: Inputs, first: int, last: int) -> torch.Tensor:
        for call in self._recording(inputs).calls[first:last]:
            hidden = call(hidden)
        return hidden

    def maps(self, hidden: torch.Tensor, inputs: Inputs, block: int, projections: bool) -> BlockMaps:
        call = self._recording(inputs).calls[block]
        paths = _projection_paths(call.block)
        if paths is None:
            raise NotSeparableError("a block shows no queries and keys")
        captured: dict[str, torch.Tensor] = {}
        spies = {path: _spy(call.block.get_submodule(path), path, captured) for path in paths}
        features = dataclasses.replace(call, block=view_with(call.block, spies))(hidden)
        attention: Any = call.block.get_submodule(paths[0].rpartition(".")[0])
        heads = getattr(attention, "num_attention_heads", self._config.num_attention_heads)
        queries, keys, values = (captured[path].unflatten(-1, (heads, -1)).transpose(1, 2) for path in paths)
        scaling = getattr(attention, "scaling", queries.shape[-1] ** -0.5)
        probabilities = attention_probabilities(queries, keys, scaling, inputs["attention_mask"])
        return BlockMaps(features, probabilities, *((queries, keys, values) if projections else ()))

    def _recording(self, inputs: Inputs) -> _Recording:
        """The recording of a batch; that of the last one is kept, for its next calls."""
        accepted = accepted_inputs(self._config, inputs)
        tensors, last = list(accepted.values()), self._last
        if last is None or not last.holds_for(tensors):
            last = self._last = self._record(accepted, tensors)
        return last

    def _record(self, inputs: Inputs, tensors: list[torch.Tensor]) -> _Recording:
        path, blocks = self._blocks
        calls: list[_BlockCall] = []
        entered: list[torch.Tensor] = []

        def note(block: nn.Module, hidden: torch.Tensor, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            calls.append(_BlockCall(block, arguments, keywords))
            entered.append(hidden)

        view = view_with(self._body, {path: nn.ModuleList(_Recorder(partial(note, block)) for block in blocks)})
        # Said explicitly, for a configuration that asks for outputs would put hooks into the shared modules.
        view(**inputs, output_hidden_states=False, output_attentions=False)
        if len(calls) != self._config.num_hidden_layers:
            raise NotSeparableError(f"{len(calls)} calls of blocks for {self._config.num_hidden_layers} blocks")
        return _Recording(entered[0], calls, tensors, _state([*tensors, entered[0]]))

    @cached_property
    def _blocks(self) -> tuple[str, nn.ModuleList]:
        """The outermost list of modules that each attend once, with its path in the body."""
        for path, module in self._body.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) and all(map(_projection_paths, module)):
                return path, module
        raise NotSeparableError("no list of blocks with queries and keys")


def _projection_paths(block: nn.Module) -> tuple[str, str, str] | None:
    """Where a block's only query, key and value layers are; None if there are none or several."""
    found: list[tuple[str, str, str]] = []
    for path, module in block.named_modules():
        for names in PROJECTION_NAMES:
            if all(isinstance(module._modules.get(name), nn.Linear) for name in names):
                prefix = f"{path}." if path else ""
                query, key, value = (prefix + name for name in names)
                found.append((query, key, value))
    return found[0] if len(found) == 1 else None


def _spy(layer: nn.Module, name: str, captured: dict[str, torch.Tensor]) -> nn.Module:
    """A view of ``layer`` that notes its output under ``name``."""

    def note(module: nn.Module, arguments: Any, output: torch.Tensor) -> None:
        captured[name] = output

    view = copy.copy(layer)
    # Its own hooks, so that the layer itself gets none.
    view.__dict__["_forward_hooks"] = OrderedDict(layer._forward_hooks)
    view.register_forward_hook(note)
    return view


def attention_probabilities(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, attention_mask: torch.Tensor
) -> torch.Tensor:
    """softmax(scaling · QKᵀ) over the keys that are no padding, in float32 also under autocast.

    Args:
        queries, keys: [B, H, S, d].
        attention_mask: [B, S], 1 for real tokens.

    Returns:
        [B, H, S, S]; exactly 0 at padding keys.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = queries.float() @ keys.float().transpose(2, 3) * scaling
        # The smallest number, not −inf: a sequence of padding alone gets no NaN.
        padding = attention_mask[:, None, None, :] == 0
        return scores.masked_fill(padding, torch.finfo(scores.dtype).min).softmax(-1)
