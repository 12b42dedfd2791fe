"""The one training loop: steps by index, checkpoints, and nothing that knows what is learnt.

Whoever trains says what the loss of step t is; the data order and the learning rate depend on t
alone, so that a resumed run repeats exactly what an uninterrupted one does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from flashdistill.core.errors import DivergedError
from flashdistill.core.progress import Progress, Silent
from flashdistill.training.checkpoint import (
    CheckpointStore,
    Snapshot,
    module_tensors,
    optimizer_tensors,
    restore_modules,
    restore_optimizer,
)
from flashdistill.training.optimizers import Schedule

LOSS_HISTORY_POINTS = 60
"""How many points of a loss curve are kept for the report."""


@dataclass
class Phase:
    """A stretch of training with one optimiser and one schedule.

    Attributes:
        name: shown to the user and kept in checkpoints, for example ``block 3``.
        loss: gives the scalar loss of a step; the step counts from 0.
        parameters: what is updated; everything else is frozen.
        task: the progress task that the phase's steps count towards.
    """

    name: str
    loss: Callable[[int], torch.Tensor]
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    gradient_clip: float
    task: str = ""

    def time_step(self, step: int) -> None:
        """Do the work of a step for timing; the weights change, so use a throw-away phase."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(step).backward()
        nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
        self.optimizer.step()


@dataclass
class LossCurve:
    """Losses of a phase, thinned to at most `LOSS_HISTORY_POINTS` points of (step, loss)."""

    points: list[tuple[int, float]] = field(default_factory=list)

    def add(self, step: int, steps: int, loss: float) -> None:
        if step % max(1, math.ceil(steps / LOSS_HISTORY_POINTS)) == 0 or step == steps - 1:
            self.points.append((step, loss))


def run_phase(
    phase: Phase,
    modules: Mapping[str, nn.Module],
    store: CheckpointStore | None = None,
    resume: Snapshot | None = None,
    progress: Progress | None = None,
) -> LossCurve:
    """Train one phase to its end.

    Args:
        modules: everything a checkpoint must hold, by name.
        resume: a checkpoint taken inside this very phase; training continues behind it.

    Raises:
        DivergedError: the loss or the gradient is not finite; the weights are those of the last
            good step.
    """
    progress = progress or Silent()
    curve = LossCurve()
    first = 0
    if resume is not None:
        restore_modules(modules, resume.tensors)
        restore_optimizer(phase.optimizer, resume.tensors, resume.position["optimizer"])
        first = int(resume.position["step"])
        curve.points = [(int(step), float(loss)) for step, loss in resume.position["curve"]]
        progress.advance(phase.task, first, phase.name)
    last_loss = math.nan
    for step in range(first, phase.schedule.steps):
        last_loss = _step(phase, step, last_loss)
        curve.add(step, phase.schedule.steps, last_loss)
        progress.advance(phase.task, 1, f"{phase.name}, loss {last_loss:.3f}")
        if store is not None and store.due() and step + 1 < phase.schedule.steps:
            store.save(snapshot(phase.name, modules, step + 1, curve, phase.optimizer))
    return curve


def _step(phase: Phase, step: int, last_loss: float) -> float:
    for group in phase.optimizer.param_groups:
        group["lr"] = phase.schedule(step)
    loss = phase.loss(step)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DivergedError(
            f"diverged: the loss is {value} at step {step} of {phase.name}; last good loss {last_loss:.4g}"
        )
    phase.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(nn.utils.clip_grad_norm_(phase.parameters, phase.gradient_clip))
    if not math.isfinite(norm):
        raise DivergedError(
            f"diverged: the gradient norm is {norm} at step {step} of {phase.name}; last good loss {last_loss:.4g}"
        )
    phase.optimizer.step()
    return value


def snapshot(
    phase: str,
    modules: Mapping[str, nn.Module],
    step: int,
    curve: LossCurve | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Snapshot:
    """The state before step ``step`` of a phase; without an optimiser the phase begins anew."""
    tensors = module_tensors(modules)
    position: dict[str, Any] = {"phase": phase, "step": step, "curve": curve.points if curve else [], "optimizer": {}}
    if optimizer is not None:
        moments, position["optimizer"] = optimizer_tensors(optimizer)
        tensors |= moments
    return Snapshot(tensors, position)


def seconds_per_step(step: Callable[[int], object], repeats: int = 3, discard: int = 1) -> float:
    """Median wall seconds of ``step(i)``, the first ``discard`` calls not counted."""
    seconds: list[float] = []
    for index in range(discard + repeats):
        begin = time.perf_counter()
        step(index)
        seconds.append(time.perf_counter() - begin)
    counted = sorted(seconds[discard:])
    return counted[len(counted) // 2]
