"""Files that are either complete or absent, and the hashes that prove it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashdistill.core.errors import FlashDistillError

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Full, over quota, a file too large for it, read-only, broken."""

_SEAL = "sha256_of_this"

_RUSTS_WORDS = re.compile(r"\(os error (\d+)\)")


class WriteError(FlashDistillError, OSError):
    """A disk is full or does not take what is written; names the file and the bytes."""


@contextlib.contextmanager
def writing(path: Path, written: Path | None = None) -> Iterator[None]:
    """Put what a full or failing disk does to the block into one message.

    Libraries say it in several ways: safetensors with an error of its own, NumPy without a number.

    Args:
        path: what is being written: a file, or a directory of files.
        written: where its bytes are for the time being, if not there.

    Raises:
        WriteError: names the path, the bytes that were written and those that are free.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        if (reason := _disk_failure(error)) is None:
            raise
        size = _size(written or path)
        free = shutil.disk_usage(_existing(path)).free
        raise WriteError(
            f"{path} cannot be written: {reason} (after {size:,} bytes; {free:,} bytes are free there); "
            "make room, and the same command goes on"
        ) from error


def _disk_failure(error: Exception) -> str | None:
    """What the operating system said about the disk; None where it is another error."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (told := _RUSTS_WORDS.search(str(error))):
        number = int(told[1])
    if number in _OF_THE_DISK:
        return os.strerror(number)
    # NumPy's tofile.
    short = isinstance(error, OSError) and number is None and re.search(r"requested and \d+ written", str(error))
    return os.strerror(errno.ENOSPC) if short else None


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends well.

    The data reach the disk before the name does, so a reader sees the old file or the new one.

    Raises:
        WriteError: the disk is full or does not take the file.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with writing(path, temporary):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            # mkstemp makes files private; these are as readable as any other new file.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """This process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_directory(path: Path) -> None:
    """Make a rename in this directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """As `write_json`, with a SHA-256 of the content in it."""
    as_read = json.loads(json.dumps(value))  # keys that are numbers become text
    write_json(path, {**as_read, _SEAL: _seal(as_read)})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """What `write_sealed_json` wrote.

    Raises:
        ValueError: it is not what was written.
    """
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.pop(_SEAL, None) != _seal(stored):
        raise ValueError(f"{path} is damaged: its content has another SHA-256 than it says")
    return stored


def _seal(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_key(*parts: object) -> str:
    """A short stable name for a cache entry made from ``parts``."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
