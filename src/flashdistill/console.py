"""Progress for people: bars on a terminal, plain lines elsewhere, and every line in a log file.

Progress goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flashdistill.core.errors import FlashDistillError

LINE_INTERVAL = 10.0
"""Seconds between two plain lines of one task."""

_REFRESHES_PER_SECOND = 2
"""Few, because the drawing thread shares its cores with the work, and measurements run there."""


@dataclass
class _Task:
    """One running task as plain lines show it."""

    total: int | None
    started: float
    spoke: float
    done: int = 0
    note: str = ""
    bar: TaskID | None = field(default=None)


class _Bars(Progress):
    """Bars with one persistent line of text under them."""

    status = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.status:
            yield Text(self.status, style="bold")


class ConsoleProgress:
    """Implements `core.progress.Progress` for the command line; also a context manager.

    On a terminal every running task is a bar with its steps, the time left and a note, with the
    persistent `status` line below. Elsewhere a task is a plain line when it starts, every ten
    seconds and when it ends. Safe to call from several threads.

    Lines said before `attach_log` are kept and open the log. Leaving the context because of an
    exception writes it to the log, with its traceback unless it was raised on purpose.

    Args:
        console: where to show progress; standard error by default.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._lock = threading.RLock()
        self._tasks: dict[str, _Task] = {}
        self._status = ""
        self._log: Path | None = None
        self._unwritten: list[str] = []
        self._bars = self._make_bars() if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if error is None:
            return
        with contextlib.suppress(OSError):  # a full disk must not hide the error that is on its way
            self._log_end(error)

    def _log_end(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._write_log("stopped by the user")
        elif isinstance(error, FlashDistillError):
            self._write_log(f"error: {error}")
        elif isinstance(error, Exception):
            self._write_log("".join(traceback.format_exception(error)).rstrip())
            if self._log is not None:
                error.add_note(f"(also in {self._log})")

    @property
    def log_path(self) -> Path | None:
        """The log file, once attached."""
        return self._log

    def attach_log(self, path: Path) -> None:
        """From now on append every line to ``path``, with timestamps, those said before included."""
        with self._lock:
            self._log = Path(path)
            unwritten, self._unwritten = self._unwritten, []
            self._append(unwritten)

    def start(self, task: str, total: int | None = None) -> None:
        """Begin ``task`` with ``total`` steps; a task of the same name starts again."""
        with self._lock:
            self._remove_bar(task)
            now = self._clock()
            self._tasks[task] = state = _Task(total, now, now)
            if self._bars is not None:
                state.bar = self._bars.add_task(task, total=total, note="")
            self._plain(f"{task}: started" + (f", {total:,} steps" if total else ""))

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        """``steps`` more steps of ``task`` are done; ``note`` is shown beside it."""
        with self._lock:
            if task not in self._tasks:
                self.start(task)
            state = self._tasks[task]
            state.done += steps
            state.note = note or state.note
            if self._bars is not None and state.bar is not None:
                self._bars.update(state.bar, advance=steps, note=state.note)
            now = self._clock()
            if now - state.spoke >= LINE_INTERVAL:
                state.spoke = now
                self._plain(f"{task}: {_position(state, now)}{_beside(state.note)}")

    def finish(self, task: str) -> None:
        """``task`` is over, complete or not."""
        with self._lock:
            state = self._tasks.get(task)
            if state is None:
                return
            self._remove_bar(task)
            del self._tasks[task]
            steps = f"{state.done:,} of {state.total:,} steps" if state.total else f"{state.done:,} steps"
            after = f"after {_duration(self._clock() - state.started)}"
            self._plain(f"{task}: ended {after}" + (f", {steps}" if state.done else "") + _beside(state.note))

    def message(self, text: str) -> None:
        """One line for the log and the terminal."""
        with self._lock:
            self._say(text)
            self._write_log(text)

    def status(self, text: str) -> None:
        """A line that stays in sight: the best front so far. Elsewhere a plain line when it changes."""
        with self._lock:
            if text == self._status:
                return
            self._status = text
            if self._bars is not None:
                self._bars.status = text
            self._plain(text)

    def _plain(self, text: str) -> None:
        """A line that a terminal shows as a bar instead."""
        if self._bars is None:
            self._say(text)
        self._write_log(text)

    def _say(self, text: str) -> None:
        # Printing through the bars' console keeps the bars below the text.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _write_log(self, text: str) -> None:
        stamp = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        self._append([f"{stamp} {text}\n"])

    def _append(self, lines: list[str]) -> None:
        if self._log is None:
            self._unwritten += lines
            return
        # Opened anew for each line: nothing is lost in a kill, and a moved directory is noticed.
        with self._log.open("a", encoding="utf-8") as log:
            log.writelines(lines)

    def _remove_bar(self, task: str) -> None:
        state = self._tasks.get(task)
        if self._bars is not None and state is not None and state.bar is not None:
            self._bars.remove_task(state.bar)

    def _make_bars(self) -> _Bars:
        return _Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
        )


def _position(state: _Task, now: float) -> str:
    """``40 of 120 steps (33 %), about 2:00 left``."""
    if not state.total:
        return f"{state.done:,} steps in {_duration(now - state.started)}"
    text = f"{state.done:,} of {state.total:,} steps ({state.done / state.total:.0%})"
    if 0 < state.done < state.total:
        left = (now - state.started) / state.done * (state.total - state.done)
        text += f", about {_duration(left)} left"
    return text


def _beside(note: str) -> str:
    return f"; {note}" if note else ""


def _duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
