"""The command's end of the workers: starts them, visits them in turn, notices their death."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from benchmarks.distillation_peers.results import ContenderResult, Visit
from benchmarks.distillation_peers.workload import Task, Workload
from flashdistill.core.errors import TargetError
from flashdistill.hardware.hosts import start_process
from flashdistill.hardware.lines import Conversation, RunnerDiedError

PROJECT = Path(__file__).resolve().parents[2]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerError(Exception):
    """A contender cannot go on; says why."""


class WorkerProcess:
    """A child process with one contender; it is started without waiting for it.

    Args:
        directory: where its log goes.
    """

    def __init__(self, contender: str, workload: Workload, threads: int, directory: Path):
        self.contender = contender
        request = {"contender": contender, "workload": workload.to_json(), "threads": threads}
        words = [sys.executable, "-m", "benchmarks.distillation_peers.worker", json.dumps(request)]
        places = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PROJECT)]))
        variables = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"PYTHONPATH": places}
        log = directory / f"{workload.name}-{contender}.log"
        self._conversation = Conversation(start_process(words, log, variables), contender, log)

    def describe(self) -> ContenderResult:
        """Wait until it is ready.

        Raises:
            WorkerError: its library is missing or does not run here.
        """
        with _as_worker_errors():
            self._conversation.wait_until_ready()
            answer = self._conversation.ask("describe")
        shares = {Task(kind, block): share for kind, block, share, _ in answer["tasks"]}
        borrowed = {Task(kind, block) for kind, block, _, is_borrowed in answer["tasks"] if is_borrowed}
        return ContenderResult(answer["title"], answer["versions"], shares, {task: [] for task in shares}, borrowed)

    def visit(self, task: Task, warmup: int, seconds: float, clock: str) -> Visit:
        """Let it train on one task.

        Raises:
            WorkerError: it failed or died.
        """
        wanted = {"kind": task.kind, "block": task.block, "warmup": warmup, "clock": clock}
        with _as_worker_errors():
            return Visit(**self._conversation.ask("run", None, **wanted, for_seconds=seconds))

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._conversation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _as_worker_errors() -> Iterator[None]:
    try:
        yield
    except (TargetError, RunnerDiedError) as error:
        raise WorkerError(str(error)) from error
