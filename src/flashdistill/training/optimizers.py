"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from flashdistill.core.errors import InputError
from flashdistill.training.settings import OptimizerName

ADAM_BETAS = (0.9, 0.999)
LAMB_EPSILON = 1e-6
ADAMW_EPSILON = 1e-8
"""Small, because the gradients of a student's queries and keys begin far below 1e-6."""


def is_decayed(parameter: nn.Parameter) -> bool:
    """True for matrices; biases and norms (vectors) are neither decayed nor scaled by LAMB's trust ratio."""
    return parameter.dim() > 1


def build_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    slowed: Iterable[nn.Parameter] = (),
    slow_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """An optimiser over ``parameters``, matrices decayed and vectors not.

    Args:
        slowed: further parameters, trained at ``slow_factor`` times the rate.

    Raises:
        InputError: LAMB is asked for and pytorch-optimizer is not installed.
    """
    groups: list[dict[str, Any]] = []
    for members, factor in ((list(parameters), 1.0), (list(slowed), slow_factor)):
        for decayed in (True, False):
            chosen = [parameter for parameter in members if is_decayed(parameter) is decayed]
            if chosen:
                decay = weight_decay if decayed else 0.0
                groups.append({"params": chosen, "weight_decay": decay, "lr": learning_rate * factor})
                groups[-1] |= {"rate_factor": factor, "adam": not decayed}
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=ADAM_BETAS, eps=ADAMW_EPSILON, fused=True)
    lamb: Any = _lamb_class()
    # As published: decay inside the update, before the trust ratio, and moments not corrected for
    # their bias (the library's name for leaving the step alone is adam_debias=True).
    return lamb(groups, lr=learning_rate, betas=ADAM_BETAS, eps=LAMB_EPSILON, weight_decouple=False, adam_debias=True)


def require_optimizer(name: OptimizerName) -> None:
    """Fail early, before any training, if the optimiser is not installed.

    Raises:
        InputError: names the extra to install.
    """
    if name == "lamb":
        _lamb_class()


def _lamb_class() -> type[torch.optim.Optimizer]:
    try:
        from pytorch_optimizer import Lamb
    except ImportError as error:
        raise InputError(
            "the optimizer lamb needs pytorch-optimizer: pip install 'flashdistill[lamb]', or set optimizer: adamw"
        ) from error
    return Lamb


class Schedule(Protocol):
    """The learning rate of every step of a phase."""

    @property
    def steps(self) -> int:
        """Length of the phase."""
        ...

    def __call__(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0; never zero."""
        ...


@dataclass(frozen=True)
class LinearSchedule:
    """Linear warm-up to ``peak``, then linear decay to ``final_fraction * peak`` at the last step."""

    steps: int
    peak: float
    warmup_steps: int
    final_fraction: float = 1e-4

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        remaining = max(self.steps - self.warmup_steps, 1)
        done = min((step - self.warmup_steps) / remaining, 1.0)
        return self.peak * (1.0 - (1.0 - self.final_fraction) * done)


@dataclass(frozen=True)
class PlateauSchedule:
    """The rate inside a stage in MobileBERT's public code: a tenth of warm-up, then almost constant.

    ``peak · min(0.9 + 0.1·√(1 − τ), 10·τ)``, τ the fraction of the phase that is done with the step.
    """

    steps: int
    peak: float

    def __call__(self, step: int) -> float:
        done = min((step + 1) / self.steps, 1.0)
        return self.peak * min(0.9 + 0.1 * (1.0 - done) ** 0.5, 10.0 * done)
