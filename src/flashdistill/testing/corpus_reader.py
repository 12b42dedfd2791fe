"""What every `CorpusReader` must do: inherit the class in the tests of a new reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import islice
from pathlib import Path

import pytest

from flashdistill.core.errors import CorpusError
from flashdistill.data.readers.base import READERS, CorpusReader, open_reader, source_key
from flashdistill.data.settings import CorpusSettings, Source


class CorpusReaderConformance(ABC):
    """Tests of the reader's contract; a subclass says how to write a corpus that it reads.

    Name the subclass ``Test…`` so that pytest collects it.
    """

    @abstractmethod
    def write(self, directory: Path, documents: list[str]) -> Source:
        """Write the documents below ``directory`` and return the source that names them."""

    @abstractmethod
    def missing(self, directory: Path) -> Source:
        """A source that does not exist below ``directory``."""

    def documents(self) -> list[str]:
        """Three documents that the reader must give back, white space aside."""
        return [
            f"The {word} story begins in a small town by the sea. {'It rained all day there. ' * 40}\n\n"
            f"Later the {word} story went on, with Zoë and 3.5 naïve cats, until its end."
            for word in ("first", "second", "third")
        ]

    def reader(self, source: Source, max_documents: int | None = None) -> CorpusReader:
        return open_reader(CorpusSettings.model_validate({"source": source, "max_documents": max_documents}))

    def test_is_registered(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, self.documents())
        assert source_key(source) in READERS

    def test_gives_the_documents_in_order(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, self.documents())
        read = [" ".join(document.split()) for document in self.reader(source).documents()]
        assert read == [" ".join(document.split()) for document in self.documents()]

    def test_keeps_paragraphs_apart(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, self.documents())
        assert all("\n\n" in document for document in self.reader(source).documents())

    def test_can_be_read_again_and_in_part(self, tmp_path: Path) -> None:
        reader = self.reader(self.write(tmp_path, self.documents()))
        first = list(islice(reader.documents(), 1))
        assert list(reader.documents()) == list(reader.documents())
        assert list(reader.documents())[:1] == first

    def test_max_documents_limits_and_changes_the_fingerprint(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, self.documents())
        whole, part = self.reader(source), self.reader(source, max_documents=2)
        assert list(part.documents()) == list(whole.documents())[:2]
        assert part.fingerprint() != whole.fingerprint()

    def test_fingerprint_moves_with_the_content(self, tmp_path: Path) -> None:
        here = self.write(tmp_path / "here", self.documents())
        there = self.write(tmp_path / "there", self.documents())
        assert self.reader(here).fingerprint() == self.reader(there).fingerprint()

    def test_fingerprint_sees_an_edit(self, tmp_path: Path) -> None:
        before = self.write(tmp_path / "before", self.documents())
        edited = self.documents()
        edited[1] = edited[1].replace("rained", "snowed", 1)
        after = self.write(tmp_path / "after", edited)
        assert self.reader(before).fingerprint() != self.reader(after).fingerprint()

    def test_opening_touches_nothing(self, tmp_path: Path) -> None:
        self.reader(self.missing(tmp_path))

    def test_a_missing_source_is_one_clear_error(self, tmp_path: Path) -> None:
        reader = self.reader(self.missing(tmp_path))
        with pytest.raises(CorpusError) as error:
            list(reader.documents())
        assert str(error.value).strip()
        with pytest.raises(CorpusError):
            reader.fingerprint()

    def test_describes_itself(self, tmp_path: Path) -> None:
        assert self.reader(self.write(tmp_path, self.documents())).describe()
