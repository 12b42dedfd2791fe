"""Configuration of a downstream task: which rows, from where."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from flashdistill.core.settings import Section

NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class SplitFiles(Section):
    """A file for each split. Without ``validation``, a share of the training rows is held out."""

    train: NonEmpty
    validation: NonEmpty | None = None
    test: NonEmpty | None = None


class TaskSettings(Section):
    """One task. A bare name in a configuration or on the command line is ``{name: NAME}``.

    ``data`` names a directory or files in the task's public format (GLUE's TSV directory, SQuAD's
    JSON), or, with ``kind``, the user's own CSV, TSV, JSONL or Parquet. Without it the rows of a
    public task are loaded by `datasets`.
    """

    name: NonEmpty
    data: NonEmpty | SplitFiles | None = None
    kind: Literal["classification", "regression", "question-answering"] | None = Field(
        None, description="of the user's own task; null: name is a public one"
    )
    text: NonEmpty = Field("text", description="column of the text, or of the first of a pair")
    pair: NonEmpty | None = Field(None, description="column of the second text; null: rows are single texts")
    label: NonEmpty = Field("label", description="column of the class or the value")
    question: NonEmpty = "question"
    context: NonEmpty = "context"
    answers: NonEmpty = Field("answers", description="column of the answers: a text, a list of texts, or SQuAD's form")
    validation_fraction: float = Field(0.1, gt=0, lt=0.5, description="held out where no validation rows are given")
    max_train_rows: int | None = Field(None, ge=1)
    max_evaluation_rows: int | None = Field(None, ge=1)
    revision: str | None = Field(None, description="commit, tag or branch on the hub; null: its main branch")

    @model_validator(mode="after")
    def _own_tasks_have_data(self) -> Self:
        if self.kind is not None and self.data is None:
            raise ValueError("a task of your own (kind is set) needs data: the file or files with its rows")
        return self
