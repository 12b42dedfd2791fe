"""Where text comes from: the reader's contract and how a source chooses its reader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any

from flashdistill.core.files import content_key
from flashdistill.core.registry import load
from flashdistill.data.settings import CorpusSettings, Source

READERS = {
    "files": "flashdistill.data.readers.text_files:TextFileReader",
    "table": "flashdistill.data.readers.tables:TableReader",
    "wikipedia_dump": "flashdistill.data.readers.wikipedia:WikipediaDumpReader",
    "gensim-wikipedia": "flashdistill.data.readers.wikipedia:GensimWikipediaReader",
    "dataset": "flashdistill.data.readers.huggingface:DatasetReader",
}
"""Readers by the key that names the source in the configuration: a new one is one file and one row here."""


class CorpusReader(ABC):
    """A source of documents, read from the start as often as asked.

    A reader is constructed from its section of the configuration and opens nothing until one
    of its methods is called.
    """

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """The documents in a fixed order; within one, newlines end lines and blank lines end paragraphs.

        Memory does not grow with the size of the corpus.

        Raises:
            CorpusError: something is missing or unreadable; names the file and the position.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """The identity of what `documents` yields, made of the content and not of its place.

        A moved corpus keeps its fingerprint, an edited one does not.

        Raises:
            CorpusError: as for `documents`.
        """

    @abstractmethod
    def describe(self) -> str:
        """The source in a few words, for messages: ``files data/*.txt``."""


class FirstDocuments(CorpusReader):
    """No more than ``limit`` documents of another reader."""

    def __init__(self, reader: CorpusReader, limit: int):
        self._reader = reader
        self._limit = limit

    def documents(self) -> Iterator[str]:
        return islice(self._reader.documents(), self._limit)

    def fingerprint(self) -> str:
        return content_key(self._reader.fingerprint(), self._limit)

    def describe(self) -> str:
        return f"the first {self._limit} documents of {self._reader.describe()}"


def source_key(source: Source) -> str:
    """The row of `READERS` for a source: the source itself, or the key that distinguishes its section."""
    return source if isinstance(source, str) else next(iter(type(source).model_fields))


def open_reader(settings: CorpusSettings) -> CorpusReader:
    """The reader of the configured source; reads nothing yet."""
    reader_class: Any = load(READERS, source_key(settings.source), "corpus source")
    reader: CorpusReader = reader_class(settings.source)
    return reader if settings.max_documents is None else FirstDocuments(reader, settings.max_documents)
