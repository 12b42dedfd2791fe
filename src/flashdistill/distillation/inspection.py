"""Looking at a student in the middle of its pre-training distillation, without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import MobileBertForPreTraining

from flashdistill.core.errors import FlashDistillError
from flashdistill.training.compute import Compute

SHARES = (0.25, 0.5, 0.75)
"""Of the pre-training steps done. The phase is most of a candidate's time; before it a student has seen
single blocks only, and its accuracy says nothing. A first look at a quarter comes well after the
warm-up of a tenth; more looks would find little more to save, for each costs a pass over the text."""

Judge = Callable[[MobileBertForPreTraining, float], str]
"""Student in evaluation mode and share of the steps done → why it is stopped; empty: it goes on."""


class StoppedEarlyError(FlashDistillError):
    """The training ended because its judge said so; the message is the reason."""


@dataclass(frozen=True)
class Inspection:
    """When a student is looked at, and by whom.

    Attributes:
        judge: asked in the main process only; None in the others, which follow its decision.
    """

    judge: Judge | None = None
    shares: tuple[float, ...] = SHARES

    def steps(self, total: int) -> dict[int, float]:
        """The share to look at after so many of ``total`` steps; never at the end, and each step once."""
        found: dict[int, float] = {}
        for share in self.shares:
            step = max(1, round(share * total))
            if step < total:
                found.setdefault(step, share)
        return found

    def look(self, student: MobileBertForPreTraining, share: float, compute: Compute) -> None:
        """Let the judge decide, in all processes alike; the student is afterwards as it was before.

        Raises:
            StoppedEarlyError: the student's training ends here.
        """
        reason, failure = "", None
        if self.judge is not None and compute.is_main:
            try:
                with _undisturbed(student):
                    reason = self.judge(student, share)
            except Exception as error:  # the others wait for an answer, whatever happens here
                failure = error
        reason, failed = compute.from_main((reason, failure is not None))
        if failure is not None:
            raise failure
        if failed:
            raise FlashDistillError("the main process could not score the student")
        if reason:
            raise StoppedEarlyError(reason)


@contextmanager
def _undisturbed(student: MobileBertForPreTraining) -> Iterator[None]:
    """The student in evaluation mode; modes and random generators are as before afterwards."""
    modes = [(module, module.training) for module in student.modules()]
    device = student.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        student.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
