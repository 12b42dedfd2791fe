"""Each job in a child process of its own, so that a native crash or a memory hog ends one job.

A thread of the coordinator looks after the children all the time: it shows their progress, watches
their memory, starts the next. The coordinator itself may meanwhile measure or think.

What becomes of a job whose process ends without a result:

    SIGSEGV, SIGABRT, ...; an exit code      failed: crashed
    more memory than the limit               killed and failed: out of memory
    the kernel's out-of-memory killer        failed: out of memory
    killed from outside (SIGKILL, SIGTERM)   begun again, to go on from its last checkpoint;
                                             failed after ``retries`` times
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any

from flashdistill.execution.attempt import Attempt, Order
from flashdistill.execution.child import STOP, Assignment, Done, Interrupted, Logged, Message, Told
from flashdistill.execution.executor import Executor, Job, Outcome, Surroundings, WorkerLostError
from flashdistill.execution.memory import limit_bytes
from flashdistill.execution.nursery import Event, Nursery
from flashdistill.execution.reports import Reports
from flashdistill.execution.settings import ExecutionSettings

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.1
"""At the workers' memory; in this time one can take a few hundred MiB more."""

GRACE_SECONDS = 60.0
"""For a step and its checkpoint, when jobs are asked to stop."""


class ProcessExecutor(Executor):
    """Jobs in child processes, ``workers`` at a time."""

    apart = True

    def __init__(self, settings: ExecutionSettings, surroundings: Surroundings):
        """The nursery imports what jobs need while the caller goes on."""
        self.places = settings.workers
        self._retries, self._surroundings = settings.retries, surroundings
        self._limit = limit_bytes(settings.memory_gib, settings.workers)
        self._threads = settings.threads or max(1, _own_threads() // settings.workers)
        self._nursery: Nursery | None = None
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._waiting: deque[Order] = deque()
        self._running: dict[int, Attempt] = {}
        self._started = self._unanswered = self._pauses = 0
        self._closing = self._closed = False
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._awake, self._alarm = Pipe(duplex=False)
        self._thread = threading.Thread(target=self._look_after_them, name="workers", daemon=True)
        self._thread.start()
        self._former_handler = sigterm_interrupts()

    def submit(self, job: Job) -> None:
        work = pickle.dumps(job.work)
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in job.name)
        with self._lock:
            self._unanswered += 1
            self._waiting.append(Order(job, work, self._surroundings.logs.absolute() / f"{name}.log"))
        self._wake()

    def completed(self) -> Outcome:
        if not self._unanswered:
            raise RuntimeError("no job was submitted")
        outcome = self._outcomes.get()
        self._unanswered -= 1
        return outcome

    @contextmanager
    def paused(self) -> Iterator[None]:
        with self._lock:
            self._pauses += 1
            for one in self._running.values():
                one.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if not self._pauses:
                    self._resume()

    def close(self) -> None:
        if self._closed:
            return
        try:
            with self._idle:
                self._closing = True
                self._waiting.clear()
                self._resume()
                for one in self._running.values():
                    with contextlib.suppress(OSError):
                        one.connection.send(STOP)
                self._idle.wait_for(lambda: not self._running, GRACE_SECONDS)
        finally:
            self._closed = True
            self._wake()
            self._thread.join()
            for one in self._running.values():  # and their own children, which the nursery does not know
                one.signal(signal.SIGKILL)
            if self._nursery is not None:
                self._nursery.close()
            for end in (self._awake, self._alarm):
                end.close()
            if self._former_handler is not None:
                signal.signal(signal.SIGTERM, self._former_handler)

    def _new_nursery(self) -> Nursery:
        return Nursery([*self._surroundings.preload, "flashdistill.execution.child"])

    def _resume(self) -> None:
        for one in self._running.values():
            one.signal(signal.SIGCONT)
        self._wake()

    def _wake(self) -> None:
        """Have the thread look at what has changed."""
        self._alarm.send_bytes(b"!")

    # From here on: in the thread.

    def _look_after_them(self) -> None:
        try:
            self._nursery = self._new_nursery()  # here, for it ends with the thread that starts it
            while not self._closed:
                self._fill_places()
                self._wait_and_react()
        except Exception as error:  # whoever waits for an outcome must not wait for ever
            log.exception("the thread that looks after the workers has failed")
            for job in [*(one.order.job for one in self._running.values()), *(one.job for one in self._waiting)]:
                self._outcomes.put(Outcome(job, error=error))

    def _fill_places(self) -> None:
        with self._lock:
            while self._waiting and len(self._running) < self.places and not self._pauses and not self._closing:
                self._start(self._waiting.popleft())

    def _start(self, order: Order) -> None:
        ours, theirs = Pipe()
        place = min(set(range(self.places)) - {one.place for one in self._running.values()})
        if order.begun is None:
            order = dataclasses.replace(order, begun=time.monotonic())
        self._started += 1
        self._running[self._started] = Attempt(order, place, ours, Reports(self._surroundings.progress))
        if self._nursery is None:
            self._nursery = self._new_nursery()
        initialise = self._surroundings.initialise
        with theirs, contextlib.suppress(OSError):  # of a nursery that has ended its event tells
            self._nursery.fork(self._started, theirs)
            ours.send(Assignment(order.work, place, self._threads, str(Path.cwd()), order.log, initialise))

    def _wait_and_react(self) -> None:
        sources: list[Any] = [self._awake, *(one.connection for one in self._running.values() if not one.silent)]
        if self._nursery is not None:
            sources.append(self._nursery)
        watched = bool(self._running) and not self._pauses
        ready = wait(sources, SECONDS_BETWEEN_LOOKS if watched else None)
        if self._awake in ready:
            self._awake.recv_bytes()
        for one in list(self._running.values()):
            if one.connection in ready:
                self._receive(one)
        if self._nursery in ready:
            self._hear(self._nursery.event() if self._nursery else None)
        if watched:
            for one in self._running.values():
                one.kill_beyond(self._limit)

    def _receive(self, one: Attempt) -> None:
        """Take one message."""
        try:
            message: Message = pickle.loads(one.connection.recv_bytes())  # nosec B301  # through a pipe, from our own child
        except (EOFError, OSError):
            one.silent = True
            return
        match message:
            case Told() | Logged():
                one.reports.show(message)
            case Done():
                one.result, one.silent = message, True
            case Interrupted():
                one.interrupted = one.silent = True

    def _hear(self, event: Event | None) -> None:
        """What the nursery says."""
        if event is None:  # it was killed, and its workers with it; the next job gets another
            assert self._nursery is not None
            self._nursery.close()
            self._nursery = None
            for number in list(self._running):
                self._end(number, -signal.SIGKILL)
        elif event.ended:
            self._end(event.number, event.code)
        else:
            with self._lock:
                one = self._running[event.number]
                one.born(event.pid)
                if self._pauses:
                    one.signal(signal.SIGSTOP)

    def _end(self, number: int, code: int) -> None:
        """An attempt's process is gone."""
        one = self._running[number]
        while not one.silent:
            self._receive(one)
        one.sweep()
        one.reports.end()
        one.connection.close()
        if one.result is not None:
            one.forget_empty_log()
            self._settle(one, one.result.value, one.result.error)
        elif not self._closing:
            self._lost(one, code)
        with self._idle:
            del self._running[number]
            self._idle.notify_all()

    def _lost(self, one: Attempt, code: int) -> None:
        """Begin again what was killed from outside; the rest has failed."""
        order, reason = one.order, one.out_of_memory(code, self._limit)
        if reason is None:
            reason = one.how_it_ended(code)
            if one.killed_from_outside(code) and order.failures < self._retries:
                self._surroundings.progress.message(
                    f"{order.job.name}: the process was {reason}; going on from its last checkpoint"
                )
                with self._lock:
                    self._waiting.appendleft(dataclasses.replace(order, failures=order.failures + 1))
                return
            if order.failures:
                reason += f", {order.failures + 1} times in all"
        log.warning("%s: %s%s", order.job.name, reason, one.last_words())
        self._settle(one, error=WorkerLostError(reason))

    def _settle(self, one: Attempt, value: Any = None, error: Exception | None = None) -> None:
        assert one.order.begun is not None
        self._outcomes.put(Outcome(one.order.job, value, error, time.monotonic() - one.order.begun))


def _own_threads() -> int:
    """With how many PyTorch computes in this process; the processor's threads where it is not imported."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else os.cpu_count() or 1


def sigterm_interrupts() -> Any:
    """Treat a scheduler's SIGTERM like Ctrl-C, so that jobs are stopped in good order; the former handler.

    None in threads other than the main one, where nothing can be changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)
