"""A memory that lasts for one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from flashdistill.training.compute import Share

Made = TypeVar("Made")


class CurrentStep(Generic[Made]):
    """What was made for the shares of the current step; forgotten with the next one."""

    def __init__(self) -> None:
        self._step: object = None
        self._made: dict[Share, Made] = {}

    def get(self, step: object, share: Share, make: Callable[[], Made]) -> Made:
        """What ``make`` gave for this share of ``step``, made once; ``step`` is anything that tells steps apart."""
        if step != self._step:
            self._step, self._made = step, {}
        if share not in self._made:
            self._made[share] = make()
        return self._made[share]
