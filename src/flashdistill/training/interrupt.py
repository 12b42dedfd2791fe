"""Ctrl-C at a moment that suits training: after the step, not in the middle of an update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what schedulers send before they kill."""


class StopRequest:
    """True once the user or a scheduler has asked the process to stop."""

    def __init__(self) -> None:
        self._received = False

    def __bool__(self) -> bool:
        return self._received

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; the second one stops at once."""
        if self._received:
            raise KeyboardInterrupt
        self._received = True


@contextmanager
def postponed_stop() -> Iterator[StopRequest]:
    """Inside the block the first signal only sets the request, which the block must look at.

    In threads other than the main one, which receive no signals, the request stays unset.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.receive) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
