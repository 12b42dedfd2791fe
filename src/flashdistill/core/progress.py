"""How long work tells that it advances, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the progress of long work; shown as bars on a terminal, as lines in a log."""

    def start(self, task: str, total: int | None = None) -> None:
        """Begin ``task`` with ``total`` steps; a task of the same name starts again."""

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        """``steps`` more steps of ``task`` are done; ``note`` is shown beside it."""

    def finish(self, task: str) -> None:
        """``task`` is over, complete or not."""

    def message(self, text: str) -> None:
        """One line for the log and the terminal."""

    def status(self, text: str) -> None:
        """The state of the whole run, kept visible: the best front so far."""


class Silent:
    """Shows nothing."""

    def start(self, task: str, total: int | None = None) -> None: ...

    def advance(self, task: str, steps: int = 1, note: str = "") -> None: ...

    def finish(self, task: str) -> None: ...

    def message(self, text: str) -> None: ...

    def status(self, text: str) -> None: ...


@contextmanager
def tracked(progress: Progress, task: str, total: int | None = None) -> Iterator[None]:
    """Show ``task`` while the block runs."""
    progress.start(task, total)
    try:
        yield
    finally:
        progress.finish(task)
