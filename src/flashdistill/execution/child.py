"""What a worker process does: one job, and telling what becomes of it.

The connection carries pickled messages between two processes of one run on one machine, and
nothing else ever.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import gc
import logging
import logging.handlers
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flashdistill.core.errors import FlashDistillError
from flashdistill.execution.executor import Worker
from flashdistill.training.interrupt import StopRequest

STOP = "stop"
"""The one thing a worker is told after its assignment: to stop where it can go on later."""

_SECONDS_BETWEEN_REPORTS = 0.2
"""Of steps, of which there may be hundreds a second."""

_FIRST_FOR_THE_OOM_KILLER = 1000


@dataclass(frozen=True)
class Assignment:
    """A job as it is sent to its worker.

    Attributes:
        work: the job's function, pickled.
        place: see `Worker`.
        threads: for PyTorch.
        directory: the working directory; relative paths are relative to it.
        log: receives what the process prints.
        initialise: called before the work.
    """

    work: bytes
    place: int
    threads: int
    directory: str
    log: Path
    initialise: Callable[[], None] | None


@dataclass(frozen=True)
class Told:
    """A call of one of `Progress`'s methods."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Logged:
    """A record for the coordinator's loggers."""

    record: logging.LogRecord


@dataclass(frozen=True)
class Done:
    """The end of the work.

    Attributes:
        error: what it raised, if it did.
    """

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Interrupted:
    """The work stopped as it was told to."""


Message = Told | Logged | Done | Interrupted


def run(connection: Connection) -> None:
    """Do the job that comes over the connection, and send its result."""
    os.setpgid(0, 0)  # Ctrl-C is for the coordinator, which tells us; and it can signal us and our children
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_FIRST_FOR_THE_OOM_KILLER), encoding="ascii")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    assignment: Assignment = connection.recv()
    send = _Sender(connection)
    threading.Thread(target=_listen, args=(connection,), daemon=True).start()
    logging.getLogger().addHandler(Forwarding(send))
    result: Message
    try:
        result = Done(_value(assignment, RemoteProgress(send)))
    except KeyboardInterrupt:
        result = Interrupted()
    except BaseException as error:
        result = Done(error=portable(error))
    gc.collect()  # finalisers remove scratch files
    try:
        send(result)
    except Exception as error:  # of a value that cannot be pickled nothing has been sent
        send(Done(error=portable(error)))


def _value(assignment: Assignment, progress: RemoteProgress) -> Any:
    _print_into(assignment.log)
    os.chdir(assignment.directory)
    os.environ["OMP_NUM_THREADS"] = str(assignment.threads)  # PyTorch looks at it once, when it is imported
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(assignment.threads)
    if assignment.initialise is not None:
        assignment.initialise()
    work = pickle.loads(assignment.work)  # nosec B301  # through a pipe, from the process that started this one
    return work(Worker(progress, assignment.place))


def portable(error: BaseException) -> Exception:
    """The error, or one of its words where it cannot be pickled; with the worker's traceback as a note."""
    told = "".join(traceback.format_exception(error))
    found: Exception
    try:
        found = pickle.loads(pickle.dumps(error))  # nosec B301  # made in this line
        assert isinstance(found, Exception)
    except Exception:
        found = FlashDistillError(f"{type(error).__name__}: {error}")
    found.add_note(f"in a worker process:\n{told}")
    return found


class RemoteProgress:
    """A `Progress` that is shown elsewhere; steps are sent a few times a second."""

    def __init__(self, send: Callable[[Message], None]):
        self._send = send
        self._steps: dict[str, int] = {}
        self._notes: dict[str, str] = {}
        self._sent = 0.0

    def start(self, task: str, total: int | None = None) -> None:
        self._tell("start", task, total)

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self._steps[task] = self._steps.get(task, 0) + steps
        self._notes[task] = note
        if time.monotonic() - self._sent >= _SECONDS_BETWEEN_REPORTS:
            self._flush()

    def finish(self, task: str) -> None:
        self._tell("finish", task)

    def message(self, text: str) -> None:
        self._tell("message", text)

    def status(self, text: str) -> None:
        self._tell("status", text)

    def _tell(self, method: str, *arguments: Any) -> None:
        self._flush()
        self._send(Told(method, arguments))

    def _flush(self) -> None:
        for task, steps in self._steps.items():
            self._send(Told("advance", (task, steps, self._notes[task])))
        self._steps.clear()
        self._sent = time.monotonic()


class _Sender:
    """Sends whole messages from any thread."""

    def __init__(self, connection: Connection):
        self._connection, self._lock = connection, threading.Lock()

    def __call__(self, message: Message) -> None:
        data = pickle.dumps(message)
        with self._lock:
            self._connection.send_bytes(data)


class Forwarding(logging.Handler):
    """Gives log records to the coordinator; what they refer to becomes text."""

    def __init__(self, send: Callable[[Message], None]):
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_info = None
        self._send(Logged(record))


def _print_into(log: Path) -> None:
    """Keep our output off the user's terminal; the last words of a native crash are in there, too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    faulthandler.enable()


def _listen(connection: Connection) -> None:
    """Wait to be told to stop; end at once when there is nobody left to work for."""
    while True:
        try:
            told = connection.recv()
        except (EOFError, OSError):
            os._exit(1)
        if told == STOP and not _is_stopping():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _is_stopping() -> bool:
    """Whether a scheduler has told us already; a second signal would end the training at once."""
    request = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return isinstance(request, StopRequest) and bool(request)
