"""An artifact as files: which they are, their size, their key, and moving them between machines.

    python -P -m flashdistill.hardware.artifacts '{"do": "receive", "directory": path}' < stream
    python -P -m flashdistill.hardware.artifacts '{"do": "send", "artifact": path}' > stream

An artifact is a file, a file with its external data ``<name>.data`` beside it, or a directory. In a
stream it is one JSON line with names and sizes, followed by the contents.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from flashdistill.core.errors import TargetError
from flashdistill.core.files import content_key, sha256_file, sync_directory, writing
from flashdistill.hardware.lines import failure, reported

_CHUNK_BYTES = 1 << 20


def artifact_files(artifact: Path) -> dict[str, Path]:
    """The files by name; every name begins with the artifact's own."""
    if artifact.is_dir():
        files = sorted(file for file in artifact.rglob("*") if file.is_file())
        return {PurePosixPath(artifact.name, file.relative_to(artifact)).as_posix(): file for file in files}
    beside = artifact.with_name(f"{artifact.name}.data")
    return {artifact.name: artifact} | ({beside.name: beside} if beside.exists() else {})


def artifact_bytes(artifact: Path) -> int:
    """Bytes of all its files."""
    return sum(file.stat().st_size for file in artifact_files(artifact).values())


def artifact_digest(artifact: Path) -> str:
    """A short name that changes with any byte or any file name."""
    return content_key([[name, sha256_file(file)] for name, file in artifact_files(artifact).items()])


def write_stream(artifact: Path, stream: BinaryIO) -> None:
    """Send an artifact."""
    files = artifact_files(artifact)
    header = {"artifact": artifact.name, "files": {name: file.stat().st_size for name, file in files.items()}}
    stream.write(json.dumps(header).encode() + b"\n")
    for file in files.values():
        with file.open("rb") as source:
            shutil.copyfileobj(source, stream, _CHUNK_BYTES)
    stream.flush()


def read_stream(stream: BinaryIO, directory: Path) -> Path:
    """Receive an artifact into ``directory``, which then holds all of it, or is not made at all.

    Returns:
        The artifact in it.

    Raises:
        EOFError: the stream ended early.
        TargetError: the sender could not send.
        WriteError: the disk is full.
    """
    header = _header(stream)
    with complete_or_absent(directory) as temporary, writing(directory, temporary):
        for name, size in header["files"].items():
            _copy(stream, _inside(temporary, name), size)
    return directory / header["artifact"]


@contextlib.contextmanager
def complete_or_absent(directory: Path) -> Iterator[Path]:
    """An empty directory beside ``directory`` that takes its place when the block ends well."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield temporary
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
        sync_directory(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_artifact(artifact: Path, directory: Path) -> Path:
    """Copy into ``directory``, which is replaced; returns the artifact in it."""
    with complete_or_absent(directory) as temporary, writing(directory, temporary):
        for name, file in artifact_files(artifact).items():
            copy = _inside(temporary, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return directory / artifact.name


def _header(stream: BinaryIO) -> dict[str, Any]:
    for line in stream:
        try:
            header = json.loads(line)
        except ValueError:
            continue  # a login shell's greeting
        if isinstance(header, dict) and "error" in header:
            raise reported(header)
        if isinstance(header, dict) and "files" in header:
            return header
    raise EOFError("the stream ended before it began")


def _inside(directory: Path, name: str) -> Path:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise TargetError(f"the file name {name!r} leads out of its artifact")
    return directory / parts


def _copy(stream: BinaryIO, path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while size:
            chunk = stream.read(min(size, _CHUNK_BYTES))
            if not chunk:
                raise EOFError(f"the stream ended within {path.name}")
            file.write(chunk)
            size -= len(chunk)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    arguments = json.loads(sys.argv[1])
    output = sys.stdout.buffer
    try:
        if arguments["do"] == "send":
            write_stream(Path(arguments["artifact"]), output)
        else:
            received = read_stream(sys.stdin.buffer, Path(arguments["directory"]))
            output.write(json.dumps({"artifact": str(received)}).encode() + b"\n")
    except (OSError, EOFError, TargetError) as error:
        output.write(json.dumps(failure(error)).encode() + b"\n")


if __name__ == "__main__":
    main()
