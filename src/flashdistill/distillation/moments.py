"""Optimiser moments that live longer than the optimiser of one stage."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_PREFIX = "moments."


class Moments:
    """The moments of a student's weights between phases, by weight and kind.

    What has not been trained yet has none, so its moments are zero when its stage begins.
    Disabled, it keeps nothing, and every phase begins with fresh moments.
    """

    def __init__(self, student: nn.Module, enabled: bool):
        self._names = {parameter: name for name, parameter in student.named_parameters()}
        self._enabled = enabled
        self._kept: dict[str, dict[str, torch.Tensor]] = {}

    def give(self, optimizer: torch.optim.Optimizer) -> None:
        """Put what is kept into a fresh optimiser."""
        for parameter in _parameters(optimizer):
            known = self._kept.get(self._names.get(parameter, ""))
            if known:
                optimizer.state[parameter] = {kind: value.clone() for kind, value in known.items()}

    def take(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the moments of a phase that is over; those of adapters end with it."""
        if not self._enabled:
            return
        for parameter in _parameters(optimizer):
            state = optimizer.state.get(parameter)
            if state and parameter in self._names:
                tensors = {kind: value.detach() for kind, value in state.items() if isinstance(value, torch.Tensor)}
                self._kept[self._names[parameter]] = tensors

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that is kept, by unique name, for a checkpoint."""
        return {f"{_PREFIX}{kind}.{name}": value for name, state in self._kept.items() for kind, value in state.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        for label, value in tensors.items():
            if label.startswith(_PREFIX):
                kind, name = label.removeprefix(_PREFIX).split(".", 1)
                self._kept.setdefault(name, {})[kind] = value


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
