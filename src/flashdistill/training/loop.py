"""The one training loop: steps by index, checkpoints, and nothing that knows what is learnt.

Whoever trains says what the loss of step t is; the data order and the learning rate depend on t
alone, so that a resumed run repeats exactly what an uninterrupted one does.

A step's batch may be computed in shares, one after the other (gradient accumulation) and side by
side in several processes. Losses are means over tokens or sequences of the whole batch, so a
share's part is divided by the size of the whole: the sum over shares is the same loss.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flashdistill.core.errors import DivergedError
from flashdistill.core.progress import Progress, Silent
from flashdistill.training.checkpoint import (
    CheckpointStore,
    Snapshot,
    module_tensors,
    optimizer_tensors,
    random_tensors,
    restore_modules,
    restore_optimizer,
    restore_random,
)
from flashdistill.training.compute import Compute, Share
from flashdistill.training.interrupt import StopRequest, postponed_stop
from flashdistill.training.optimizers import Schedule

LOSS_HISTORY_POINTS = 60
"""How many points of a loss curve are kept for the report."""


class StepLoss(nn.Module, ABC):
    """The loss of a step. Parameters that it trains are found among its submodules."""

    batch_size: int
    """Sequences of a whole batch."""

    @abstractmethod
    def sizes(self, step: int, share: Share) -> tuple[float, ...]:
        """What the terms of the loss are means over, counted in this share: masked tokens, say."""

    @abstractmethod
    def forward(self, step: int, share: Share, totals: Sequence[float]) -> torch.Tensor:
        """This share's part of the loss, a scalar.

        Args:
            totals: `sizes` summed over all shares; what the sums of the terms are divided by.
        """


@dataclass
class Phase:
    """A stretch of training with one optimiser and one schedule.

    Attributes:
        name: shown to the user and kept in checkpoints, for example ``block 3``.
        loss: gives the loss of a step; steps count from 0.
        parameters: what is updated; everything else must be frozen.
        task: the progress task that the phase's steps count towards.
    """

    name: str
    loss: StepLoss
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    gradient_clip: float
    task: str = ""

    def time_step(self, step: int, compute: Compute) -> None:
        """Do the work of a step for timing; the weights change, so use a throw-away phase."""
        self.optimizer.zero_grad(set_to_none=True)
        _backward(self.loss, step, compute)
        _clip(self.parameters, self.gradient_clip)
        self.optimizer.step()
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)


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
    compute: Compute,
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
        KeyboardInterrupt: the process was asked to stop; a checkpoint has been written.
    """
    with postponed_stop() as stop:
        steps = phase_steps(phase, modules, compute, store, resume, progress, stop=stop)
        while True:
            try:
                next(steps)
            except StopIteration as finished:
                return finished.value


def phase_steps(
    phase: Phase,
    modules: Mapping[str, nn.Module],
    compute: Compute,
    store: CheckpointStore | None = None,
    resume: Snapshot | None = None,
    progress: Progress | None = None,
    carried: Snapshot | None = None,
    stop: StopRequest | None = None,
) -> Generator[int, None, LossCurve]:
    """`run_phase` step by step: gives the number of steps done after each one.

    Args:
        carried: what the checkpoints hold beside the phase's own state.
        stop: looked at after every step.
    """
    progress = progress or Silent()
    curve = LossCurve()
    first = 0
    wrapped = compute.prepare(phase.loss)
    if resume is not None:
        restore_modules(modules, resume.tensors)
        restore_optimizer(phase.optimizer, resume.tensors, resume.position["optimizer"])
        restore_random(resume.tensors)
        first = int(resume.position["step"])
        curve.points = [(int(step), float(loss)) for step, loss in resume.position["curve"]]
        progress.advance(phase.task, first, phase.name)
    last_loss, done = math.nan, first

    def save() -> None:
        if store is not None and compute.is_main:
            store.save(snapshot(phase.name, modules, done, curve, phase.optimizer, carried))

    try:
        for step in range(first, phase.schedule.steps):
            last_loss, stopping = _step(phase, wrapped, step, last_loss, compute, bool(stop))
            done = step + 1
            curve.add(step, phase.schedule.steps, last_loss)
            progress.advance(phase.task, 1, f"{phase.name}, loss {last_loss:.3f}")
            if stopping:
                raise KeyboardInterrupt
            if store is not None and store.due() and done < phase.schedule.steps:
                save()
            yield done
    except KeyboardInterrupt:
        save()
        raise
    return curve


def _step(
    phase: Phase, wrapped: nn.Module, step: int, last_loss: float, compute: Compute, stop: bool
) -> tuple[float, bool]:
    """One update; returns the loss and whether any process was asked to stop."""
    phase.optimizer.zero_grad(set_to_none=True)
    local = _backward(wrapped, step, compute)
    value, stopping = compute.sum([local, float(stop)])
    where = f"at step {step} of {phase.name}; last good loss {last_loss:.4g}"
    if not math.isfinite(value):
        raise DivergedError(f"diverged: the loss is {value} {where}")
    norm = _clip(phase.parameters, phase.gradient_clip)
    if not math.isfinite(norm):
        raise DivergedError(f"diverged: the gradient norm is {norm} {where}")
    rate = phase.schedule(step)
    for group in phase.optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)
    phase.optimizer.step()
    return value, stopping > 0


def _backward(wrapped: nn.Module, step: int, compute: Compute) -> float:
    """Add the gradients of this process's shares of a step; returns its part of the loss."""
    loss: Any = wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped
    shares = compute.shares(loss.batch_size)
    sizes = [loss.sizes(step, share) for share in shares]
    totals = compute.sum([sum(column) for column in zip(*sizes, strict=True)])
    value = 0.0
    for share in shares:
        last = share is shares[-1]
        waiting = wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) and not last else nullcontext()
        with waiting:
            with compute.arithmetic():
                part = wrapped(step, share, totals)
            # Gradients are averaged over processes, but the loss is the sum of their parts.
            (part * compute.world_size).backward()
        value += float(part.detach())
    return value


def _clip(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scale the gradients to a global norm of ``limit`` where it is exceeded; returns the norm before."""
    norm = nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
    if norm > limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)


def snapshot(
    phase: str,
    modules: Mapping[str, nn.Module],
    step: int,
    curve: LossCurve | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    carried: Snapshot | None = None,
) -> Snapshot:
    """The state before step ``step`` of a phase; without an optimiser the phase begins anew."""
    tensors = module_tensors(modules) | random_tensors()
    position: dict[str, Any] = {"phase": phase, "step": step, "curve": curve.points if curve else [], "optimizer": {}}
    if carried is not None:
        tensors |= carried.tensors
        position |= carried.position
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
