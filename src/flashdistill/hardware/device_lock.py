"""One measurement at a time on a device, whoever runs it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flashdistill.core.progress import Progress, Silent


def lock_directory() -> Path:
    """The machine-wide directory of the locks, shared by all its users."""
    return Path(tempfile.gettempdir(), "flashdistill-locks")


def physical_device(device: str) -> str:
    """``cpu``, or ``cuda:N`` with the number or name by which the driver knows what this process calls ``cuda:N``."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return kind
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    index = int(number or 0)
    return f"{kind}:{visible[index] if index < len(visible) else index}"


@contextmanager
def device_lock(device: str, progress: Progress | None = None) -> Iterator[None]:
    """Hold the machine-wide lock of ``device``, waiting for it as long as needed.

    The kernel releases the lock when its holder ends, however that happens.
    """
    directory = lock_directory()
    with suppress(FileExistsError):
        directory.mkdir()
        directory.chmod(0o1777)
    descriptor = _open(directory / f"{physical_device(device)}.lock")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (progress or Silent()).message(f"waiting: another process is measuring on this machine's {device}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    # First without O_CREAT: in a sticky directory the kernel may refuse to "create" a file that
    # another user made, although opening it is allowed. Reading suffices for a lock.
    flags = os.O_RDONLY | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o644)
