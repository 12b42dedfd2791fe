"""Seconds of a step, and what a step spends them on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

OTHER = "other"
"""Everything outside the watched phases: data, losses of the plain recipes, clipping, book-keeping."""


class PhaseTimer:
    """Seconds by phase. Phases may be nested; an inner phase's time is not the outer one's.

    Backward passes and optimisers are watched wherever they are called from, so that loops inside
    foreign libraries are measured as our own is.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = [OTHER]
        self._since = time.perf_counter()

    def reset(self) -> None:
        """Begin to count anew, between two steps."""
        self.seconds.clear()
        self._since = time.perf_counter()

    def enter(self, phase: str) -> None:
        self.account()
        self._open.append(phase)

    def leave(self) -> None:
        self.account()
        self._open.pop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def watch_module(self, module: nn.Module, phase: str) -> None:
        """Count the calls of a module."""
        module.register_forward_pre_hook(lambda *_: self.enter(phase))
        module.register_forward_hook(lambda *_: self.leave(), always_call=True)

    def watch_method(self, owner: Any, name: str, phase: str) -> None:
        """Count the calls of a method of one object."""
        setattr(owner, name, self._timed(getattr(owner, name), phase))

    @contextmanager
    def watching_training(self) -> Iterator[None]:
        """Inside the block all backward passes and optimiser steps of this process are counted."""
        before = torch.Tensor.backward
        torch.Tensor.backward = self._timed(before, "backward")  # type: ignore[method-assign]
        handles = [
            register_optimizer_step_pre_hook(lambda *_: self.enter("optimiser")),
            register_optimizer_step_post_hook(lambda *_: self.leave()),
        ]
        try:
            yield
        finally:
            torch.Tensor.backward = before  # type: ignore[method-assign]
            for handle in handles:
                handle.remove()

    def _timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return function(*args, **kwargs)

        return timed

    def account(self) -> None:
        """Assign the time up to now to the phase that is open."""
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now


class StepClock:
    """Times consecutive steps and says when there are enough.

    Args:
        timer: divides the steps' time among phases.
        warmup: steps at the beginning that do not count.
        seconds: how long the counted steps last at least in all.
        now: the clock that steps are timed with.
        begin: called right before the first step.
    """

    def __init__(
        self,
        timer: PhaseTimer,
        warmup: int,
        seconds: float,
        now: Callable[[], float] = time.perf_counter,
        begin: Callable[[], object] = lambda: None,
    ):
        self._timer, self._warmup, self._seconds = timer, warmup, seconds
        self._now, self._begin = now, begin
        self._since = 0.0
        self.step_seconds: list[float] = []
        self.losses: list[float] = []

    def start(self) -> None:
        """Everything is built and the first step begins."""
        self._begin()
        self._timer.reset()
        self._since = self._now()

    def step_done(self, loss: float) -> bool:
        """A step ends and the next one begins; True when it need not."""
        now = self._now()
        self._timer.account()
        self.losses.append(loss)
        if len(self.losses) <= self._warmup:
            self._timer.reset()
        else:
            self.step_seconds.append(now - self._since)
        self._since = self._now()
        return bool(self.step_seconds) and sum(self.step_seconds) >= self._seconds

    @property
    def mean_seconds(self) -> float:
        """Seconds of a counted step."""
        return sum(self.step_seconds) / len(self.step_seconds)

    def phase_shares(self) -> dict[str, float]:
        """Every phase's share of the counted steps."""
        total = sum(self._timer.seconds.values())
        return {phase: seconds / total for phase, seconds in self._timer.seconds.items()}
