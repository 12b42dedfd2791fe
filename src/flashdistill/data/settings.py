"""Configuration section ``corpus``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flashdistill.core.settings import Section

NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class FileSource(Section):
    """Text files by glob; ``.gz`` is unpacked. A file's end always closes a document.

    In books and articles a blank line ends a paragraph, and a longer gap a chapter; documents
    of one paragraph would leave hardly any sentence pair to learn from. So by default two or
    more blank lines in a row close a document. BERT's own text format has one blank line
    between documents: set ``document_break: blank-line`` for it.
    """

    files: NonEmpty | list[NonEmpty]
    document_break: Literal["blank-line", "blank-lines", "file"] = Field(
        default="blank-lines", description="what closes a document: one blank line, two or more, or only the file's end"
    )


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
    split: NonEmpty = "train"
    column: NonEmpty = "text"
    revision: str | None = Field(default=None, description="commit, tag or branch on the hub; null: its main branch")
    streaming: bool = Field(default=False, description="fetch rows as they are read instead of downloading all first")


Source = Literal["gensim-wikipedia"] | FileSource | TableSource | WikipediaDumpSource | DatasetSource


PAPER_CAP = "20-per-512"
PAPER_PREDICTIONS, PAPER_LENGTH = 20, 512


class CorpusSettings(Section):
    """Where the text comes from and how sequences are made of it."""

    source: Source
    max_length: int = Field(default=128, ge=16, description="tokens of a sentence pair with its special tokens")
    validation_fraction: float = Field(default=0.02, gt=0, lt=0.5, description="share of whole documents held out")
    validation_sequences: int = Field(default=1024, ge=16, description="at most this many held-out pairs are scored")
    short_sequence_fraction: float = Field(default=0.1, ge=0, le=1)
    masked_fraction: float = Field(default=0.15, gt=0, lt=1)
    max_predictions: Annotated[int, Field(ge=1)] | Literal["20-per-512"] | None = Field(
        default=None,
        description="cap on masked tokens in a sequence; 20-per-512: the paper's, in proportion to max_length",
    )
    max_documents: int | None = Field(default=None, ge=2, description="read no more documents than this")

    @property
    def predictions_cap(self) -> int | None:
        """The cap as a number of tokens; None without one.

        MobileBERT's public code, whose masking the paper's accuracies of 69-74 % belong to, predicts
        at most 20 tokens of a sequence of 512, where 15 % would be 77. The share is kept at other
        lengths: 5 tokens of 128. Fewer masks leave more context, so a model scores higher.
        """
        if self.max_predictions == PAPER_CAP:
            return max(1, round(self.max_length * PAPER_PREDICTIONS / PAPER_LENGTH))
        return self.max_predictions
