"""The user's own task: rows of a table as classes, values or questions, by the names of its columns."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.answers import locate_answer
from flashdistill.data.tasks.checks import encode_labels
from flashdistill.data.tasks.parts import Part, RawTask, context_groups
from flashdistill.data.tasks.settings import SplitFiles, TaskSettings
from flashdistill.data.tasks.squad import METRICS as QUESTION_METRICS
from flashdistill.data.tasks.tables import Table, is_table, read_table
from flashdistill.data.tasks.task import Answer, Question, Questions, Sentences

_STEMS = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}
"""Names of the files in a directory, by split."""


def load_own(settings: TaskSettings) -> RawTask:
    """A task of the user's files. Validation rows that are not given are held out later.

    A classification of two classes is judged by accuracy, the F1 of the second label and Matthews
    correlation, one of more by accuracy and Matthews correlation; a regression by Pearson and
    Spearman correlation and the root mean squared error.

    Raises:
        InputError: a file, a column, or a cell is not as the settings say; names the line.
    """
    paths = own_files(settings.name, settings.data)
    if settings.kind == "question-answering":
        return _questions(settings, paths)
    required = (settings.text, settings.label, *([settings.pair] if settings.pair else []))
    tables = {split: read_table(path, required) for split, path in paths.items()}
    if settings.kind == "regression":
        labels, metrics = (), ("pearson", "spearman", "rmse")
        values = {split: _values(table, settings.label) for split, table in tables.items()}
    else:
        names = {split: _class_texts(table, settings.label) for split, table in tables.items()}
        labels = _in_order(names["train"], tables["train"])
        indices = {label: index for index, label in enumerate(labels)}
        values = {split: encode_labels(names[split], indices, table.place, labels) for split, table in tables.items()}
        metrics = ("accuracy", "f1", "matthews") if len(labels) == 2 else ("accuracy", "matthews")
    parts = {split: _sentences(table, settings, values[split]) for split, table in tables.items()}
    return _task(settings, parts, metrics, labels)


def own_files(name: str, data: str | SplitFiles | None) -> dict[str, Path]:
    """The file of each split.

    Raises:
        InputError: a directory without training rows, or with several files for a split.
    """
    if isinstance(data, SplitFiles):
        named = {"train": data.train, "validation": data.validation, "test": data.test}
        return {split: Path(path).expanduser() for split, path in named.items() if path is not None}
    assert data is not None
    path = Path(data).expanduser()
    if not path.is_dir():
        return {"train": path}
    files: dict[str, Path] = {}
    for split, stems in _STEMS.items():
        found = sorted(file for file in path.iterdir() if file.name.partition(".")[0] in stems and is_table(file))
        if len(found) > 1:
            raise InputError(
                f"the task {name}: several files of {split} rows in {path} ({', '.join(file.name for file in found)}); "
                "keep one, or name the files as data: {train: …, validation: …, test: …}"
            )
        if found:
            files[split] = found[0]
    if "train" not in files:
        raise InputError(
            f"the task {name}: {path} has no training rows; name the file train.csv, .tsv, .jsonl or .parquet "
            "(validation.* and test.* beside it), or name the files as data: {train: …}"
        )
    return files


def _task(settings: TaskSettings, parts: dict[str, Part], metrics: tuple[str, ...], labels: tuple[str, ...]) -> RawTask:
    assert settings.kind is not None
    names = ", ".join(Path(part.origin).name for part in parts.values())
    questions = [row for part in parts.values() if isinstance(part.rows, Questions) for row in part.rows.rows]
    return RawTask(
        settings.name,
        settings.kind,
        parts["train"],
        metrics,
        f"files {names}",
        {"validation": parts["validation"]} if "validation" in parts else {},
        parts.get("test"),
        labels,
        unanswerable=any(not row.answers for row in questions),
        public=False,
    )


def _sentences(table: Table, settings: TaskSettings, values: np.ndarray) -> Part:
    pairs = None if settings.pair is None else _texts(table, settings.pair)
    rows = Sentences(_texts(table, settings.text), pairs, values)
    return Part(rows, str(table.path), table.numbers, lines=table.has_lines)


def _texts(table: Table, column: str) -> list[str]:
    """The cells of a column; null is an empty text, which the checks name."""
    for row, value in enumerate(table.columns[column]):
        if value is not None and not isinstance(value, str):
            raise InputError(f"{table.place(row)}: column {column!r} holds {type(value).__name__}, not text")
    return ["" if value is None else value for value in table.columns[column]]


def _values(table: Table, column: str) -> np.ndarray:
    """[n] float32 values of a regression."""
    values = np.empty(len(table.numbers), dtype=np.float32)
    for row, value in enumerate(table.columns[column]):
        try:
            if isinstance(value, bool):
                raise TypeError
            # What float32 cannot hold becomes infinite, which the checks name.
            with np.errstate(over="ignore"):
                values[row] = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{table.place(row)}: the {column} {value!r} is not a number") from error
    return values


def _class_texts(table: Table, column: str) -> list[str]:
    """The name of each row's class."""
    return [_class_text(value, table.place(row), column) for row, value in enumerate(table.columns[column])]


def _class_text(value: Any, place: str, column: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise InputError(f"{place}: the {column} is missing")
    if isinstance(value, float) and not value.is_integer():
        raise InputError(f"{place}: the {column} {value!r} is no class; for values write kind: regression")
    if not isinstance(value, str | int | float):
        raise InputError(f"{place}: the {column} is a {type(value).__name__}; a class is a text or a whole number")
    # pandas writes whole numbers as 1.0 where the column has gaps.
    text = str(int(value)) if isinstance(value, float) else str(value).strip()
    if not text:
        raise InputError(f"{place}: the {column} is empty")
    return text


def _in_order(classes: list[str], table: Table) -> tuple[str, ...]:
    """The labels sorted, as numbers where all are."""
    labels = sorted(set(classes))
    if len(labels) > 2 and len(labels) == len(classes):
        raise InputError(
            f"{table.path}: each of the {len(classes)} rows has a class of its own; is another column the label, "
            "or kind: regression meant?"
        )
    if all(_is_whole(label) for label in labels):
        labels.sort(key=int)
    return tuple(labels)


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _questions(settings: TaskSettings, paths: Mapping[str, Path]) -> RawTask:
    required = (settings.question, settings.context, settings.answers)
    parts: dict[str, Part] = {}
    for split, path in paths.items():
        table = read_table(path, required, optional=("id",))
        identifiers = table.columns.get("id", table.numbers)
        contexts = _texts(table, settings.context)
        questions = [
            Question(
                str(identifier),
                question,
                context,
                _answers(answers, context, f"{table.place(row)} (id {identifier!r})"),
            )
            for row, (identifier, question, context, answers) in enumerate(
                zip(
                    identifiers,
                    _texts(table, settings.question),
                    contexts,
                    table.columns[settings.answers],
                    strict=True,
                )
            )
        ]
        groups = context_groups(questions)
        parts[split] = Part(Questions(questions), str(path), table.numbers, groups, lines=table.has_lines)
    return _task(settings, parts, QUESTION_METRICS, ())


def _answers(cell: Any, context: str, place: str) -> tuple[Answer, ...]:
    """The answers of a cell: a text, a list of texts, SQuAD's form, or in a CSV file the JSON of these."""
    if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError):  # an answer may itself begin with a bracket
            cell = json.loads(cell)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return ()
    if isinstance(cell, str):
        texts, starts = [cell], None
    elif isinstance(cell, dict) and isinstance(cell.get("text"), list):
        texts, starts = cell["text"], cell.get("answer_start")
    else:
        texts, starts = cell, None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{place}: answers are a text, a list of texts, or {{text: [...], answer_start: [...]}}")
    if starts is None:
        starts = [None] * len(texts)
    whole = isinstance(starts, list) and all(start is None or isinstance(start, int) for start in starts)
    if not whole or len(starts) != len(texts):
        raise InputError(f"{place}: answer_start must be a list of {len(texts)} whole numbers, one for each text")
    return tuple(locate_answer(text, context, start, place) for text, start in zip(texts, starts, strict=True))
