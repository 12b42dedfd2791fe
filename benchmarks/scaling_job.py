"""What a worker of the scaling benchmark does; imports nothing that would cost a worker time."""

from __future__ import annotations

import time

from flashdistill.execution.executor import Worker


def sleep(seconds: float, worker: Worker) -> None:
    """Stands for a candidate's training."""
    time.sleep(seconds)
