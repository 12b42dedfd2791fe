"""The executor of tests and of torchrun: in this process."""

from __future__ import annotations

from flashdistill.execution.executor import Executor, Surroundings
from flashdistill.execution.inprocess import InProcessExecutor
from flashdistill.testing.executor_conformance import ExecutorConformance


class TestInProcess(ExecutorConformance):
    several = False

    @classmethod
    def make_executor(cls, workers: int, surroundings: Surroundings) -> Executor:
        return InProcessExecutor(surroundings=surroundings)
