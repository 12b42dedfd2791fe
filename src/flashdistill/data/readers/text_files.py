"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flashdistill.data.readers.base import CorpusReader
from flashdistill.data.readers.files import as_list, combined, hash_files, matching_files, read_pieces
from flashdistill.data.settings import FileSource

MAX_DOCUMENT_CHARACTERS = 1_000_000
"""A longer document goes on as the next one: a bound on memory, far above any chapter or article."""

_BLANK_LINES = {"blank-line": 1, "blank-lines": 2, "file": None}


class TextFileReader(CorpusReader):
    """UTF-8 text files by glob, ``.gz`` unpacked; see `FileSource` for what ends a document."""

    def __init__(self, source: FileSource):
        self._source = source

    def documents(self) -> Iterator[str]:
        for path in matching_files(self._source.files):
            yield from divide(read_pieces(path), _BLANK_LINES[self._source.document_break])

    def fingerprint(self) -> str:
        return combined(hash_files(matching_files(self._source.files)), self._source.document_break)

    def describe(self) -> str:
        return f"files {', '.join(as_list(self._source.files))}"


def divide(pieces: Iterable[str], blank_lines: int | None) -> Iterator[str]:
    r"""Join lines to documents; ``blank_lines`` or more blank lines in a row close one (None: never).

    Fewer blank lines stay in the document as one blank line, the end of a paragraph. A document
    is closed early at `MAX_DOCUMENT_CHARACTERS`, between lines, or inside a line that is longer
    than `read_pieces` gives at once.
    """
    parts: list[str] = []
    size = blanks = 0
    at_line_start = True
    for piece in pieces:
        if at_line_start and piece.endswith("\n") and not piece.strip():
            blanks += 1
            continue
        ends = blank_lines is not None and blanks >= blank_lines
        if parts and (ends or size + len(piece) > MAX_DOCUMENT_CHARACTERS):
            yield "".join(parts)
            parts, size = [], 0
        elif parts and blanks:
            parts.append("\n")
        blanks = 0
        parts.append(piece)
        size += len(piece)
        at_line_start = piece.endswith("\n")
    if parts:
        yield "".join(parts)
