"""Where jobs run: the one interface of this process, child processes and a Ray cluster.

A job is a function with what it needs bound to it. Who hands it over keeps the study; a job sends
back plain data. Its failure never takes down the one who waits for it:

    with open_executor(settings, surroundings) as executor:
        executor.submit(Job("flash 512_128_4_512_4", work))
        outcome = executor.completed()
        scores = outcome.get()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flashdistill.core.errors import FlashDistillError
from flashdistill.core.progress import Progress, Silent


class WorkerLostError(FlashDistillError):
    """The process that did a job ended without a result; the message says how: ``crashed (SIGSEGV)``."""


@dataclass(frozen=True)
class Worker:
    """What a job is told about where it runs.

    Attributes:
        progress: shown where the job was submitted.
        place: a number from 0 that no other job has that runs at the same time and sees the same
            GPUs, of which it chooses one by it.
    """

    progress: Progress = field(default_factory=Silent)
    place: int = 0


@dataclass(frozen=True)
class Job:
    """Work to be done once.

    Attributes:
        name: unlike that of any other job at the same time; names its log.
        work: does it. Where the executor's jobs run ``apart``, function and result must be
            picklable; what it raises is the job's failure.
        needs: absolute paths of directories that it reads; taken along to machines that lack them.
        processes: that share its work where the executor can start several for one job.
    """

    name: str
    work: Callable[[Worker], Any]
    needs: tuple[Path, ...] = ()
    processes: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        error: what the work raised, or a `WorkerLostError`; None where it returned.
        seconds: wall time from its start to its end, all attempts together.
    """

    job: Job
    value: Any = None
    error: Exception | None = None
    seconds: float = 0.0

    def get(self) -> Any:
        """The work's result; raises its error."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(frozen=True)
class Surroundings:
    """What an executor must know of the run whose jobs it does.

    Attributes:
        logs: the directory for what worker processes print.
        preload: modules that jobs need and that are slow to import; importing them computes nothing.
        initialise: called in every worker process before its work; picklable.
    """

    logs: Path
    progress: Progress = field(default_factory=Silent)
    preload: tuple[str, ...] = ()
    initialise: Callable[[], None] | None = None


class Executor(ABC):
    """Runs jobs; a context manager that leaves no job running behind.

    Attributes:
        places: how many jobs run at a time; further ones wait for their turn.
        apart: whether jobs run in other processes.
    """

    places: int = 1
    apart: bool = False

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Have a job done as soon as a place is free; returns at once.

        Raises:
            TypeError, AttributeError, pickle.PicklingError: the job cannot be sent to a process.
        """

    @abstractmethod
    def completed(self) -> Outcome:
        """Wait for a job to end, in whatever order they do; each outcome is given once.

        Raises:
            RuntimeError: there is none to wait for.
            KeyboardInterrupt: the process was asked to stop; jobs stop when the executor is closed.
        """

    @abstractmethod
    def paused(self) -> AbstractContextManager[None]:
        """Keep this machine's processor free of jobs in the block: something is measured on it."""

    @abstractmethod
    def close(self) -> None:
        """Ask jobs that still run to stop where they can go on later, and wait for them. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ServingExecutor(Executor):
    """An executor that may also reach the hardware that serves, where this machine is not it.

    Attributes:
        serves: whether there is such hardware; without it the caller measures by itself.
    """

    serves: bool = False

    @abstractmethod
    def serve(self, job: Job) -> Outcome:
        """Do a job on the hardware that serves, one at a time, and wait for it."""
