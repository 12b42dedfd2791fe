"""Finding, opening, hashing and decoding files, with errors that name the file and the byte."""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flashdistill.core.errors import CorpusError
from flashdistill.core.files import sha256_file

PIECE_BYTES = 1 << 18
"""A line longer than this arrives in pieces, so that memory stays bounded."""


def as_list(patterns: str | list[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def matching_files(patterns: str | list[str]) -> list[Path]:
    """The files that match any of the globs (``**`` descends), sorted by path, each once.

    Raises:
        CorpusError: a glob matches no file.
    """
    found: set[Path] = set()
    for pattern in as_list(patterns):
        path = Path(pattern).expanduser()
        # A name may contain the characters of a glob; an existing file means itself.
        # Unlike Path.glob, glob.glob leaves hidden files out, as a shell does.
        matches = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)  # noqa: PTH207
        names = [Path(name) for name in matches]
        files = [name for name in names if name.is_file()]
        if not files:
            kind = "holds no file directly; write DIRECTORY/*" if path.is_dir() else "matches no file"
            raise CorpusError(f"corpus.source: {pattern!r} {kind} (relative to {Path.cwd()})")
        found.update(files)
    return sorted(found)


def hash_files(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of every file, in order."""
    hashes = []
    for path in paths:
        with reading(path):
            hashes.append(sha256_file(path))
    return hashes


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong while reading ``path`` into a `CorpusError` that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{path}: the compressed file is truncated or damaged ({error})") from error
    except OSError as error:
        # bz2 reports damaged data as an OSError without an errno.
        reason = error.strerror or f"the file is damaged ({error})"
        raise CorpusError(f"{path}: cannot be read: {reason}") from error


def open_binary(path: Path) -> IO[bytes]:
    """The file's bytes; ``.gz`` and ``.bz2`` are unpacked on the way."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".bz2":
        return bz2.open(path, "rb")
    return path.open("rb")


def read_pieces(path: Path, piece_bytes: int = PIECE_BYTES) -> Iterator[str]:
    r"""The text of a UTF-8 file line by line; line ends become ``\n``, a byte-order mark is dropped.

    A line longer than ``piece_bytes`` arrives in several pieces, of which only the last ends
    with a newline.

    Raises:
        CorpusError: bad UTF-8, with the byte offset (in the unpacked data of a compressed
            file), or damaged compression.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with reading(path), open_binary(path) as handle:
        while True:
            piece = handle.readline(piece_bytes)
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                # The decoder may hold back the start of a character from the previous piece.
                position = offset + len(piece) - len(error.object) + error.start
                raise CorpusError(
                    f"{path}: not UTF-8 text at byte {position} ({error.reason}); convert the file to UTF-8"
                ) from error
            if not piece:
                return
            if offset == 0:
                text = text.removeprefix("\ufeff")
            offset += len(piece)
            yield text[:-2] + "\n" if text.endswith("\r\n") else text


def combined(hashes: Iterable[str], *parts: object) -> str:
    """One fingerprint from the files' hashes and whatever else decides on the documents."""
    digest = hashlib.sha256()
    for part in (*hashes, *parts):
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()
