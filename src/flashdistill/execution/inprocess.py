"""Jobs in this very process, one after the other: for tests, for debugging, and for torchrun."""

from __future__ import annotations

import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext

from flashdistill.core.progress import Progress, Silent
from flashdistill.execution.executor import Executor, Job, Outcome, Surroundings, Worker
from flashdistill.execution.settings import ExecutionSettings


class InProcessExecutor(Executor):
    """Does a job when its outcome is asked for. A native crash takes this process down with it."""

    def __init__(self, settings: ExecutionSettings | None = None, surroundings: Surroundings | None = None):
        """No setting applies here: there is one place, and its memory and threads are this process's."""
        self._progress: Progress = surroundings.progress if surroundings else Silent()
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def completed(self) -> Outcome:
        if not self._waiting:
            raise RuntimeError("no job was submitted")
        job, begin = self._waiting.popleft(), time.monotonic()
        try:
            value = job.work(Worker(self._progress))
        except Exception as error:
            return Outcome(job, error=error, seconds=time.monotonic() - begin)
        return Outcome(job, value, seconds=time.monotonic() - begin)

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()  # nothing runs while the caller does

    def close(self) -> None:
        self._waiting.clear()
