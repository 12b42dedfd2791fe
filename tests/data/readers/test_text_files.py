from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashdistill.core.errors import CorpusError
from flashdistill.data.readers.files import read_pieces
from flashdistill.data.readers.text_files import MAX_DOCUMENT_CHARACTERS, TextFileReader, divide
from flashdistill.data.settings import FileSource, Source
from flashdistill.testing.corpus_reader import CorpusReaderConformance
from tests.faults_catalogue import fault


class TestTextFileReader(CorpusReaderConformance):
    def write(self, directory: Path, documents: list[str]) -> Source:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "text.txt").write_text("\n\n\n".join(documents), encoding="utf-8")
        return FileSource(files=str(directory / "*.txt"))

    def missing(self, directory: Path) -> Source:
        return FileSource(files=str(directory / "nothing-*.txt"))


class TestGzippedTextFiles(CorpusReaderConformance):
    def write(self, directory: Path, documents: list[str]) -> Source:
        (directory / "deep").mkdir(parents=True, exist_ok=True)
        for number, document in enumerate(documents):
            # No time stamp, or equal texts would have unequal files.
            packed = gzip.compress(document.encode(), mtime=0)
            (directory / "deep" / f"{number}.txt.gz").write_bytes(packed)
        return FileSource(files=[str(directory / "**" / "*.txt.gz")])

    def missing(self, directory: Path) -> Source:
        return FileSource(files=[str(directory / "**" / "*.gz")])


def read(path: Path, document_break: str = "blank-lines") -> list[str]:
    source = FileSource.model_validate({"files": str(path), "document_break": document_break})
    return list(TextFileReader(source).documents())


def test_what_ends_a_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne.\r\nTwo.\r\n\r\nThree.\n \n\t\n\nFour.".encode())
    assert read(path) == ["One.\nTwo.\n\nThree.\n", "Four."]
    assert read(path, "blank-line") == ["One.\nTwo.\n", "Three.\n", "Four."]
    assert read(path, "file") == ["One.\nTwo.\n\nThree.\n\nFour."]


def test_document_break_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n\nTwo.")
    prints = {
        TextFileReader(
            FileSource.model_validate({"files": str(tmp_path / "a.txt"), "document_break": kind})
        ).fingerprint()
        for kind in ("blank-line", "blank-lines", "file")
    }
    assert len(prints) == 3


def test_files_are_read_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b", "a", "[c]"):
        (tmp_path / f"{name}.txt").write_text(f"Text {name}.")
    source = FileSource(files=[str(tmp_path / "*.txt"), str(tmp_path / "a.txt"), str(tmp_path / "[c].txt")])
    assert sorted(TextFileReader(source).documents()) == ["Text [c].", "Text a.", "Text b."]
    assert list(TextFileReader(source).documents()) == list(TextFileReader(source).documents())


@fault(9, "missing text")
def test_empty_match_names_the_glob(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere/\*\.txt.*matches no file"):
        read(tmp_path / "nowhere" / "*.txt")
    with pytest.raises(CorpusError, match=r"write DIRECTORY/\*"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"good line\nbad \xff byte", 14),
        ("é".encode() * 3 + b"\xc3(", 6),
        (b"cut character \xe2\x82", 14),
        ("Grüße".encode("utf-16"), 0),
    ],
)
@fault(9, "bytes that are not UTF-8")
def test_bad_utf8_names_file_and_offset(tmp_path: Path, data: bytes, offset: int) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=rf"bad\.txt: not UTF-8 text at byte {offset} "):
        read(path)


def test_bad_utf8_offset_across_pieces(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes("é".encode() * 5 + b"\xff")
    with pytest.raises(CorpusError, match="at byte 10 "):
        list(read_pieces(path, piece_bytes=3))


@fault(9, "gzip file cut or damaged")
def test_damaged_gz_names_the_file(tmp_path: Path) -> None:
    packed = gzip.compress(b"Some text to pack. " * 1000)
    for name, data in {
        "cut": packed[: len(packed) // 2],
        "no": b"plain text",
        "flip": packed[:30] + b"xyz" + packed[33:],
    }.items():
        path = tmp_path / f"{name}.txt.gz"
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=rf"{name}\.txt\.gz: the compressed file is truncated or damaged"):
            read(path)


def test_long_documents_are_divided() -> None:
    line = "x" * 99 + "\n"
    parts = list(divide((line for _ in range(25_000)), blank_lines=2))
    assert [len(part) for part in parts] == [MAX_DOCUMENT_CHARACTERS, MAX_DOCUMENT_CHARACTERS, 500_000]


@fault(9, "one line of 40 MB")
def test_memory_is_bounded_for_one_enormous_line(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    with path.open("wb") as handle:
        for _ in range(40):
            handle.write(b"word " * 200_000)
    tracemalloc.start()
    lengths = [len(document) for document in lazily(path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(lengths) == 40_000_000
    assert max(lengths) <= MAX_DOCUMENT_CHARACTERS
    assert peak < 8 * MAX_DOCUMENT_CHARACTERS


def lazily(path: Path) -> Iterator[str]:
    return TextFileReader(FileSource(files=str(path))).documents()
