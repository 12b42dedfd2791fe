"""Configuration section ``corpus``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flashdistill.core.settings import Section

NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class FileSource(Section):
    """Text files by glob; ``.gz`` is unpacked. A blank line or a file's end closes a document."""

    files: NonEmpty | list[NonEmpty]


class TableSource(Section):
    """A text column of JSONL, CSV or Parquet files by glob; one row is one document."""

    table: NonEmpty | list[NonEmpty]
    column: NonEmpty = "text"


class WikipediaDumpSource(Section):
    """A Wikipedia XML dump, ``.xml.bz2``."""

    wikipedia_dump: NonEmpty


class DatasetSource(Section):
    """A data set of the Hugging Face hub, or a directory that `datasets` can load."""

    dataset: NonEmpty
    name: str | None = None
    split: str = "train"
    column: NonEmpty = "text"


Source = Literal["gensim-wikipedia"] | FileSource | TableSource | WikipediaDumpSource | DatasetSource


class CorpusSettings(Section):
    """Where the text comes from and how sequences are made of it."""

    source: Source
    max_length: int = Field(128, ge=16, description="tokens of a sentence pair with its special tokens")
    validation_fraction: float = Field(0.02, gt=0, lt=0.5, description="share of whole documents held out")
    validation_sequences: int = Field(1024, ge=16, description="at most this many held-out pairs are scored")
    short_sequence_fraction: float = Field(0.1, ge=0, le=1)
    masked_fraction: float = Field(0.15, gt=0, lt=1)
    max_predictions: int | None = Field(None, ge=1, description="cap on masked tokens in a sequence")
    max_documents: int | None = Field(None, ge=2, description="read no more documents than this")
