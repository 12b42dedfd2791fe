"""One attempt at a job in a process of its own, and what its end means."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from flashdistill.execution.child import Done
from flashdistill.execution.executor import Job
from flashdistill.execution.memory import GIB, MemoryWatch, oom_kills
from flashdistill.execution.reports import Reports

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""No fault of the job's."""

_LAST_WORDS = 2000


@dataclass(frozen=True)
class Order:
    """A job that waits for a place.

    Attributes:
        work: its function, pickled.
        begun: on the monotonic clock, when its first attempt began; None before it.
        failures: attempts whose process was killed from outside.
    """

    job: Job
    work: bytes
    log: Path
    begun: float | None = None
    failures: int = 0


@dataclass
class Attempt:
    """An order in a process, from the request for one to its end.

    Attributes:
        pid: the process, which leads a process group; 0 until it is known.
        result: what it has sent at the end of its work.
        silent: it will send nothing more.
        interrupted: it stopped as if it had been told to.
        excess: bytes in use when it was found over its limit.
    """

    order: Order
    place: int
    connection: Connection
    reports: Reports
    pid: int = 0
    watch: MemoryWatch | None = None
    result: Done | None = None
    silent: bool = False
    interrupted: bool = False
    excess: int = 0
    oom_kills_before: int = field(default_factory=lambda: oom_kills())

    def born(self, pid: int) -> None:
        """Its process is there."""
        self.pid = pid
        with contextlib.suppress(psutil.NoSuchProcess):  # and gone again
            self.watch = MemoryWatch(pid)

    def signal(self, number: int) -> None:
        """Send a signal to the process and its own children."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:  # so young that it has no group of its own yet
                os.kill(self.pid, number)

    def sweep(self) -> None:
        """Kill the children that it has left behind."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def kill_beyond(self, limit: int) -> None:
        """Kill it where it uses more than ``limit`` bytes."""
        if self.watch is None or self.silent or self.excess:
            return
        if (now := self.watch.look()) > limit:
            self.excess = now
            self.signal(signal.SIGKILL)

    def out_of_memory(self, code: int, limit: int) -> str | None:
        """How much it used where memory was the reason of its end; None where it was not."""
        if self.excess:
            return f"out of memory ({self.excess / GIB:.2f} GiB of {limit / GIB:.2f} GiB)"
        if -code == signal.SIGKILL and oom_kills() > self.oom_kills_before:
            peak = self.watch.peak if self.watch else 0
            return f"out of memory (killed by the system at {peak / GIB:.2f} GiB)"
        return None

    def killed_from_outside(self, code: int) -> bool:
        return self.interrupted or -code in FROM_OUTSIDE

    def how_it_ended(self, code: int) -> str:
        """``crashed (SIGSEGV)``, ``killed (SIGKILL)``, ``crashed (exit code 3)``."""
        if self.interrupted:
            return f"killed ({signal.SIGTERM.name})"
        name = _signal_name(-code) if code < 0 else f"exit code {code}"
        return f"{'killed' if -code in FROM_OUTSIDE else 'crashed'} ({name})"

    def last_words(self) -> str:
        """The end of what it printed, with a leading line break; nothing where it printed nothing."""
        try:
            data = self.order.log.read_bytes()
        except OSError:
            return ""
        text = data[-_LAST_WORDS:].decode(errors="replace").strip()
        return f"; the end of {self.order.log}:\n{text}" if text else ""

    def forget_empty_log(self) -> None:
        with contextlib.suppress(OSError):
            if not self.order.log.stat().st_size:
                self.order.log.unlink()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
