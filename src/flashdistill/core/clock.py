"""What time it is and what phases cost."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager


@contextmanager
def timed(costs: MutableMapping[str, float], phase: str) -> Iterator[None]:
    """Add the wall seconds of the block to ``costs[phase]``, also when it fails."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        costs[phase] = costs.get(phase, 0.0) + time.perf_counter() - begin


def now() -> str:
    """The local time, ISO 8601 with the offset from UTC."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
