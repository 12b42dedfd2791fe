"""The command's end of the workers: starts them, visits them in turn, notices their death."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from benchmarks.distillation_peers.results import ContenderResult, Visit
from benchmarks.distillation_peers.workload import Task, Workload

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
        self._log = directory / f"{workload.name}-{contender}.log"
        request = {"contender": contender, "workload": workload.to_json(), "threads": threads}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.distillation_peers.worker", json.dumps(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=PROJECT,
                env=os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)),
            )

    def describe(self) -> ContenderResult:
        """Wait until it is ready.

        Raises:
            WorkerError: its library is missing or does not run here.
        """
        self._receive()
        answer = self._ask("describe")
        shares = {Task(kind, block): share for kind, block, share, _ in answer["tasks"]}
        borrowed = {Task(kind, block) for kind, block, _, is_borrowed in answer["tasks"] if is_borrowed}
        return ContenderResult(answer["title"], answer["versions"], shares, {task: [] for task in shares}, borrowed)

    def visit(self, task: Task, warmup: int, seconds: float, clock: str) -> Visit:
        """Let it train on one task.

        Raises:
            WorkerError: it failed or died.
        """
        answer = self._ask("run", kind=task.kind, block=task.block, warmup=warmup, seconds=seconds, clock=clock)
        return Visit(**answer)

    def close(self) -> None:
        """End the process; safe to call twice."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, command: str, **arguments: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"do": command, **arguments}) + "\n").encode())
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(self._death()) from error
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._death())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        words = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"its process ended with status {self._process.returncode}: {words[-1] if words else 'no message'}"
