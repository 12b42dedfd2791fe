"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
    name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimiser over ``parameters``, matrices decayed and vectors not.

    Raises:
        InputError: LAMB is asked for and pytorch-optimizer is not installed.
    """
    parameters = list(parameters)
    matrices = [parameter for parameter in parameters if is_decayed(parameter)]
    vectors = [parameter for parameter in parameters if not is_decayed(parameter)]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if name == "adamw":
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=ADAM_BETAS, eps=ADAMW_EPSILON, fused=True)
    lamb: Any = _lamb_class()
    for group, without_trust_ratio in zip(groups, (False, True), strict=True):
        group["adam"] = without_trust_ratio
    groups = [group for group in groups if group["params"]]
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


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to ``peak``, then linear decay to ``final_fraction * peak`` at the last step."""

    steps: int
    peak: float
    warmup_steps: int
    final_fraction: float = 1e-4

    def __call__(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0; never zero."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        remaining = max(self.steps - self.warmup_steps, 1)
        done = min((step - self.warmup_steps) / remaining, 1.0)
        return self.peak * (1.0 - (1.0 - self.final_fraction) * done)
