"""What the readers of tasks hand over: rows that still know where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from flashdistill.data.tasks.task import Question, Questions, Rows, Sentences, TaskKind

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The rows of one split before anything is held out or left away.

    Attributes:
        origin: the file or the split of a data set.
        numbers: [n] of each row its line in the file, or its index where rows have no lines.
        groups: [n] rows with the same number are never divided between training and validation;
            None where every row stands for itself.
        lines: whether ``numbers`` are lines of a text file, counted from 1.
    """

    rows: Rows
    origin: str
    numbers: Sequence[int]
    groups: Indices | None = None
    lines: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> str:
        """Where a row is, as a message says it: ``train.csv:17``."""
        number = self.numbers[row]
        where = f"{self.origin}:{number}" if self.lines else f"{self.origin}, row {number}"
        return f"{where} (id {self.rows.rows[row].id!r})" if isinstance(self.rows, Questions) else where

    def take(self, indices: Indices) -> Self:
        """The rows at ``indices``, in that order."""
        return replace(
            self,
            rows=_taken(self.rows, indices),
            numbers=[self.numbers[i] for i in indices],
            groups=None if self.groups is None else self.groups[indices],
        )


def _taken(rows: Rows, indices: Indices) -> Rows:
    if isinstance(rows, Questions):
        return Questions([rows.rows[i] for i in indices])
    return Sentences(
        [rows.texts[i] for i in indices],
        None if rows.pairs is None else [rows.pairs[i] for i in indices],
        None if rows.labels is None else rows.labels[indices],
    )


@dataclass(frozen=True)
class RawTask:
    """A task as it was read. `loading.load_task` checks it, divides it and makes a `Task` of it.

    Attributes:
        evaluation: by split name; empty where a share of ``train`` is to be held out.
        public: whether the rows are a published data set's: its oddities are noted, because
            scores are compared over exactly its rows, where in a user's own they are errors.
        notes: what the reader found worth saying.
    """

    name: str
    kind: TaskKind
    train: Part
    metrics: tuple[str, ...]
    source: str
    evaluation: Mapping[str, Part] = field(default_factory=dict)
    test: Part | None = None
    labels: tuple[str, ...] = ()
    unanswerable: bool = False
    public: bool = True
    notes: tuple[str, ...] = ()

    def parts(self) -> dict[str, Part]:
        """All parts by the name of their split."""
        test = {} if self.test is None else {"test": self.test}
        return {"train": self.train, **self.evaluation, **test}


def context_groups(questions: Sequence[Question]) -> Indices:
    """[n] the same number for all questions about the same context."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(row.context, len(known)) for row in questions], dtype=np.int64)
