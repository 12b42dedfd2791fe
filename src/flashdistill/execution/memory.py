"""How much memory a worker has, and how much it may have."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

GIB = 1024**3

_SHARE_OF_WORKERS = 0.8
"""Of the machine's memory, for all workers together; the rest is the coordinator's and the system's."""

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_bytes() -> int:
    """What all processes here may use together: the machine's memory, or a container's limit."""
    total = psutil.virtual_memory().total
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            total = min(total, int(path.read_text(encoding="ascii")))
    return total


def limit_bytes(memory_gib: float | None, workers: int) -> int:
    """The limit of one of several workers; its fair share where none is configured."""
    return int(machine_bytes() * _SHARE_OF_WORKERS / workers if memory_gib is None else memory_gib * GIB)


class MemoryWatch:
    """The memory of a process and of those that it has started.

    Files that are mapped into memory are not counted: the system takes their pages back when it
    needs them.

    Attributes:
        peak: bytes, of all looks so far.
    """

    _LOOKS_BETWEEN_CENSUSES = 10
    """Finding a process's children means reading the whole process table."""

    def __init__(self, pid: int):
        self._processes = [psutil.Process(pid)]
        self._looks = 0
        self.peak = 0

    def look(self) -> int:
        """Bytes in use now."""
        if self._looks % self._LOOKS_BETWEEN_CENSUSES == 0:
            with suppress(psutil.Error):
                self._processes[1:] = self._processes[0].children(recursive=True)
        self._looks += 1
        now = sum(map(_anonymous_bytes, self._processes))
        self.peak = max(self.peak, now)
        return now


def _anonymous_bytes(process: psutil.Process) -> int:
    try:
        found = process.memory_info()
    except psutil.Error:  # it has just ended
        return 0
    return found.rss - getattr(found, "shared", 0)


def oom_kills() -> int:
    """How many processes the kernel has killed on this machine because memory ran out; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
