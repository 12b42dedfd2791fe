"""Progress that tests look at, or that ends what reports to it."""

from __future__ import annotations

from flashdistill.core.progress import Silent


class Messages(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing may catch it."""


class Killer(Silent):
    """Ends the process at the n-th step."""

    def __init__(self, at: int):
        self.left = at

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self.left -= bool(note) and steps
        if self.left == 0:
            raise KilledError
