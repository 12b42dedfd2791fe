"""What a worker of the scaling benchmark does; imports nothing that would cost a worker time."""

from __future__ import annotations

import time
from typing import TypeVar

from flashdistill.execution.executor import Worker

Result = TypeVar("Result")


def slept(result: Result, seconds: float, worker: Worker) -> Result:
    """Stands for a candidate's training."""
    time.sleep(seconds)
    return result
