"""What a downstream task is: its rows, its splits, and the metrics it is judged by.

Everything that reads a task, from GLUE's files or the user's own table, makes a `Task` of it;
everything that trains or scores a model sees nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

TaskKind = Literal["classification", "regression", "question-answering"]


@dataclass(frozen=True)
class Sentences:
    """Rows of a classification or regression task.

    Attributes:
        texts: n texts.
        pairs: n second texts; None where a row is a single text.
        labels: [n]; int64 class indices or float32 values; None where they are not public.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Answer:
    """A stretch of the context: ``context[start : start + len(text)] == text``."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """One question about one context.

    Attributes:
        answers: all that count as right; empty where the context does not answer the question.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Questions:
    """Rows of an extractive question-answering task."""

    rows: list[Question]

    def __len__(self) -> int:
        return len(self.rows)


Rows = Sentences | Questions


@dataclass(frozen=True)
class Task:
    """A task with its data.

    Attributes:
        name: ``sst2``, ``squad2``, or what the user calls it.
        labels: of a classification, in the order of their indices; empty otherwise.
        train: what models learn from.
        evaluation: by split name what they are judged on, ``validation`` in most tasks,
            ``validation_matched`` and ``validation_mismatched`` in MNLI; the first one selects.
        test: the rows that nothing is chosen by; None where there are none or their labels are
            not public.
        metrics: names of `evaluation.finetuning.metrics.TASK_METRICS`; the first one selects.
        unanswerable: whether questions without an answer occur (SQuAD v2.0).
        source: where the rows come from, as a model card says it.
        identity: a short hash of all rows and labels.
        notes: what a reader of its scores should know: rows left out, held out, or on both sides.
    """

    name: str
    kind: TaskKind
    train: Rows
    evaluation: Mapping[str, Rows]
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    test: Rows | None = None
    unanswerable: bool = False
    source: str = ""
    identity: str = ""
    notes: tuple[str, ...] = ()

    @property
    def selecting_split(self) -> str:
        """The split by which checkpoints and hyper-parameters are chosen; never the test split."""
        return next(iter(self.evaluation))
