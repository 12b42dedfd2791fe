"""The session's end of a runner: starts it, talks to it, notices its death."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from flashdistill.core.errors import TargetError
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.statistics import Block

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ANSWER_SECONDS = 600.0

STEADY_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Asks the C library for huge pages, where the kernel offers them (``madvise`` or ``always``).

Spread over thousands of small pages, a model's weights fall into the caches differently in every
process, and its speed varies with that. In huge pages it varies by much less. Resident memory is
rounded up, so memory is measured without this.
"""


class RunnerDiedError(Exception):
    """The process ended or stopped answering; says how, with the last words of its log."""


class RunnerProcess:
    """A child process with one loaded model.

    It is started without waiting for it, so that two can start side by side:
    call `wait_until_ready` before anything else.

    Args:
        settings: the target.
        cpus: the CPUs to pin it to.
        directory: where its log and its arrays go; must exist.
        role: names its files and appears in messages (``candidate``, ``reference``).
        variables: added to the environment of the process.
    """

    def __init__(
        self,
        settings: TargetSettings,
        cpus: Sequence[int],
        directory: Path,
        role: str,
        variables: Mapping[str, str] | None = None,
    ):
        self.role = role
        self._log_path = directory / f"runner-{role}.log"
        self._arrays = directory / f"runner-{role}"
        arguments = json.dumps({"settings": settings.model_dump(mode="json"), "cpus": list(cpus)})
        environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(settings.threads)) | dict(variables or {})
        with self._log_path.open("wb") as log:
            # -P: a file of the user's that is called numpy.py must not be imported. A session of
            # its own: Ctrl-C reaches the coordinator, which ends its runners in good order.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flashdistill.hardware.runner", arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Return when the process has imported its runtime.

        Raises:
            TargetError: the runtime is missing; says what to install.
            RunnerDiedError: the process ended.
        """
        self._receive()

    def load(self, artifact: Path) -> float:
        """Load a model; returns the seconds it took.

        Raises:
            TargetError: the runtime refuses it.
        """
        return self.ask("load", artifact=str(artifact.resolve()))["seconds"]

    def infer(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The model's outputs for ``inputs``, which stay in place for `run`."""
        source, result = self._arrays.with_suffix(".in.npz"), self._arrays.with_suffix(".out.npz")
        np.savez(source, **inputs)  # type: ignore[arg-type]
        self.ask("infer", inputs=str(source.resolve()), outputs=str(result.resolve()))
        with np.load(result, allow_pickle=False) as arrays:
            return [arrays[name] for name in arrays.files]

    def run(self, count: int) -> Block:
        """Time ``count`` calls in a row; the first, which finds cold caches, is dropped."""
        answer = self.ask("run", count=count)
        return Block.from_nanoseconds(answer["wall_ns"][1:], answer["cpu_ns"][1:])

    def statistics(self) -> dict[str, Any]:
        """The target's description and ``peak_memory_bytes`` since `load`."""
        return self.ask("statistics")

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            TargetError: the command failed.
            RunnerDiedError: the process ended, or did not answer within ten minutes.
        """
        assert self._process.stdin is not None
        line = json.dumps({"do": command, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise self._died("is gone") from error
        return self._receive()

    def close(self) -> None:
        """End the process: the end of its input lets it go, else it is killed. Safe to call twice."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + _ANSWER_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._kill()
                    raise self._died(f"did not answer for {_ANSWER_SECONDS:.0f} s")
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    raise self._died("ended")
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise TargetError(answer["error"])
        return answer

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _died(self, how: str) -> RunnerDiedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code = self._process.returncode
        status = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit status {code})"
        log = self._log_path.read_text(encoding="utf-8", errors="replace").strip()
        tail = f"; its last words: {log[-400:]}" if log else ""
        return RunnerDiedError(f"the {self.role} runner {how}{status}{tail}")
