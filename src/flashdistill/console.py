"""Progress for people: bars on a terminal, plain lines elsewhere, and every line in a log file.

Progress goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import FlashDistillError
from flashdistill.core.measurement import Measurement

LINE_INTERVAL = 10.0
"""Seconds between two plain lines of one task."""

WORTHWHILE_SPEEDUP = 1.2
"""Less is within what a busy machine makes of equal speeds."""

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


def measurement_table(results: Iterable[tuple[Architecture, Mapping[str, Measurement]]]) -> str:
    """Architectures and their measurements as aligned text, with half-widths of 95 % intervals.

    The column ``ratio`` is the latency relative to the baseline's, measured side by side.
    """
    results = list(results)
    names = list(dict.fromkeys(name for _, measured in results for name in measured))
    header = ["architecture"]
    for name in names:
        header += [name, "ratio"] if name == "latency_ms" else [name]
    rows = [header]
    for architecture, measured in results:
        row = [str(architecture)]
        for name in names:
            measurement = measured.get(name)
            row.append("-" if measurement is None else _with_interval(measurement))
            if name == "latency_ms":
                row.append("-" if measurement is None else _ratio(measurement))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(columns))
        for columns in (list(zip(row, widths, strict=True)) for row in rows)
    )


def _with_interval(measurement: Measurement) -> str:
    value = f"{measurement.value:,.0f}" if float(measurement.value).is_integer() else f"{measurement.value:,.4g}"
    interval = "" if measurement.stderr is None else f" ± {1.96 * measurement.stderr:.2g}"
    return value + interval + (" noisy" if measurement.details.get("noisy") else "")


def _ratio(measurement: Measurement) -> str:
    ratio, low, high = (measurement.details.get(key) for key in ("ratio", "ratio_low", "ratio_high"))
    if not isinstance(ratio, float):
        return "-"
    interval = f" [{low:.3f}, {high:.3f}]" if isinstance(low, float) and isinstance(high, float) else ""
    return f"{ratio:.3f}{interval}"


def doctor_text(report: Mapping[str, Any]) -> str:
    """`hardware.doctor.doctor_report` as aligned text, warnings last."""
    shares = {"stalled_share": "tasks waiting for a CPU", "stolen_share": "CPU time stolen by the host"}
    rows = [(name.replace("_", " "), _fact(name, value)) for name, value in report["machine"].items()]
    rows += [
        ("matrix product", f"{report['gemm_gflops']:,.1f} GFLOP/s (float32)"),
        ("memory", f"{report['memory_gb_per_s']:,.1f} GB/s (one thread)"),
        ("free memory", _fact("free_memory_bytes", report["free_memory_bytes"])),
        ("load", f"{report['load']:.2f}"),
    ]
    rows += [(words, f"{report[key]:.0%}") for key, words in shares.items() if report[key] is not None]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}" for name, text in rows]
    return "\n".join([*lines, "", *(f"warning: {text}" for text in report["warnings"] or ())]).rstrip()


def training_text(device: str, speedups: Mapping[str, float | None]) -> str:
    """What reduced precision and compilation bring, as `training.speed` measured them; None: not to be had."""
    lines = [f"training on {device}"]
    settings = {"bfloat16": "training.precision: bfloat16", "compile": "training.compile: true"}
    for name, setting in settings.items():
        speedup = speedups[name]
        if speedup is not None:
            advice = f"set {setting}" if speedup >= WORTHWHILE_SPEEDUP else "not worth setting"
            lines.append(f"  {name:<8}  {speedup:.2f} x as fast as without: {advice}")
    if speedups["bfloat16"] is None:
        lines.append("  bfloat16  only emulated here: training uses float32")
    return "\n".join(lines)


def _fact(name: str, value: Any) -> str:
    return f"{value / 2**30:.1f} GiB" if name.endswith("_bytes") else str(value)
