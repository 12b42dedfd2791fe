"""Work in a forked process that is killed, or short of disk space, at a chosen point."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "tempfile.mkstemp", "shutil.rmtree"}
"""The interpreter announces these before it does them."""


def crash_at_every_change(
    directory: Path, prepare: Callable[[], None], work: Callable[[], None], judge: Callable[[], None]
) -> int:
    """Kill ``work`` before its first, second, ... change of a file in ``directory``, until it gets through.

    Args:
        prepare: called before each attempt.
        judge: called after each kill.

    Returns:
        How often it was killed.
    """
    for number in range(1, 1000):
        prepare()
        code = in_child(lambda at=number: _killed_at(at, directory, work))
        if code == 0:
            return number - 1
        assert code == -signal.SIGKILL, f"the work failed by itself ({code})"
        judge()
    raise AssertionError("the work never ends")


def _killed_at(number: int, directory: Path, work: Callable[[], None]) -> None:
    left = number

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event not in _CHANGES or not str(arguments[0]).startswith(str(directory)):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work()


def with_files_of_at_most(size: int, work: Callable[[], None]) -> None:
    """Do ``work`` in a process whose files cannot grow beyond ``size`` bytes: a disk that is full there.

    Raises:
        AssertionError: the work failed; has the traceback.
    """

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        work()

    assert in_child(limited) == 0


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked process that does the work, 1 if it raises; minus the number of a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
