"""What is wrong with a task's rows, found before anything is trained.

A mistake that spoils the result is an `InputError` that names the row; what is only worth knowing
becomes a note of the `Task`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

import numpy as np

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.parts import Part, RawTask
from flashdistill.data.tasks.task import Question, Questions, Sentences

MIN_TRAIN_ROWS = 8
MIN_EVALUATION_ROWS = 2


def check_rows(raw: RawTask) -> list[str]:
    """Check every row on its own, whichever split it will belong to.

    Returns:
        Notes about oddities of published data.

    Raises:
        InputError: no rows, an empty text in the user's own rows, a value that is not finite, an
            answer that is not where it is said to be, an id given twice; names the row.
    """
    notes: list[str] = []
    for part in raw.parts().values():
        if not len(part):
            raise InputError(f"{part.origin}: no rows")
        empty = _empty_rows(part)
        if empty and not raw.public:
            row, what = empty[0]
            more = f" ({len(empty)} such rows)" if len(empty) > 1 else ""
            raise InputError(f"{part.place(row)}: the {what} is empty{more}; fill it in or leave the row out")
        if empty:
            row, what = empty[0]
            notes.append(f"{part.origin}: {len(empty)} rows with an empty {what}, kept ({part.place(row)})")
        if isinstance(part.rows, Questions):
            _check_questions(part, part.rows.rows, raw.unanswerable)
        else:
            _check_values(part, part.rows)
    return notes


def _empty_rows(part: Part) -> list[tuple[int, str]]:
    if isinstance(part.rows, Questions):
        columns = [("question", [row.question for row in part.rows.rows])]
        columns.append(("context", [row.context for row in part.rows.rows]))
    else:
        columns = [("text", part.rows.texts)]
        if part.rows.pairs is not None:
            columns.append(("second text", part.rows.pairs))
    return sorted((row, what) for what, texts in columns for row, text in enumerate(texts) if not text.strip())


def _check_values(part: Part, rows: Sentences) -> None:
    if rows.labels is None:
        raise InputError(f"{part.origin}: the rows have no labels")
    if rows.labels.dtype.kind == "f" and len(wrong := np.flatnonzero(~np.isfinite(rows.labels))):
        value = rows.labels[wrong[0]]
        raise InputError(f"{part.place(int(wrong[0]))}: the value is {value}; values must be finite numbers")


def _check_questions(part: Part, rows: list[Question], unanswerable: bool) -> None:
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        if (first := seen.setdefault(row.id, number)) != number:
            raise InputError(f"{part.place(number)}: the id occurs twice, first at {part.place(first)}")
        if not row.answers and not unanswerable:
            raise InputError(f"{part.place(number)}: no answer, but every question of this task has one")
        for answer in row.answers:
            if not answer.text.strip():
                raise InputError(f"{part.place(number)}: an answer is empty")
            if row.context[answer.start : answer.start + len(answer.text)] != answer.text or answer.start < 0:
                raise InputError(f"{part.place(number)}: the context has no {answer.text!r} at {answer.start}")


def check_splits(raw: RawTask) -> None:
    """Check what the splits must have to be trained and judged on.

    Raises:
        InputError: too few rows, a single class, a constant value, or a class that only
            evaluation has.
    """
    for name, part in raw.parts().items():
        least = MIN_TRAIN_ROWS if name == "train" else MIN_EVALUATION_ROWS
        if len(part) < least:
            raise InputError(
                f"the task {raw.name}: {len(part)} {name} rows ({part.origin}), at least {least} are needed; "
                "add rows or raise the limit on them"
            )
    if raw.kind == "classification":
        _check_classes(raw)
    elif raw.kind == "regression":
        for name, part in raw.parts().items():
            if len(values := np.unique(_labels(part))) == 1:
                raise InputError(
                    f"the task {raw.name}: all {len(part)} {name} rows ({part.origin}) have the value {values[0]:g}; "
                    "nothing can be learned or judged"
                )


def _check_classes(raw: RawTask) -> None:
    known = np.unique(_labels(raw.train))
    if len(known) < 2:
        raise InputError(
            f"the task {raw.name}: all {len(raw.train)} train rows ({raw.train.origin}) have the class "
            f"{raw.labels[known[0]]!r}; at least two classes are needed"
        )
    for name, part in raw.parts().items():
        if len(unknown := np.setdiff1d(_labels(part), known)):
            row = int(np.flatnonzero(_labels(part) == unknown[0])[0])
            raise InputError(
                f"{part.place(row)}: no train row has the class {raw.labels[unknown[0]]!r} of this {name} row; "
                "a model cannot learn it"
            )


def _labels(part: Part) -> np.ndarray:
    assert isinstance(part.rows, Sentences)
    assert part.rows.labels is not None
    return part.rows.labels


def split_notes(raw: RawTask) -> list[str]:
    """What is odd about the splits but may be meant: rows on both sides, splits of one class."""
    notes: list[str] = []
    known = set(_keys(raw.train))
    for name, part in raw.parts().items():
        if name == "train":
            continue
        if shared := sum(key in known for key in _keys(part)):
            notes.append(f"{shared} of {len(part)} {name} rows are also train rows; scores on them say less")
        if raw.kind == "classification" and len(classes := np.unique(_labels(part))) == 1:
            notes.append(f"all {len(part)} {name} rows have the class {raw.labels[classes[0]]!r}")
    if raw.kind == "classification" and (contradictory := _contradictory(raw.train)):
        notes.append(f"{contradictory} train texts occur with different labels")
    return notes


def _keys(part: Part) -> list[tuple[str, str]]:
    """What makes rows identical, whatever their labels."""
    if isinstance(part.rows, Questions):
        return [(row.question, row.context) for row in part.rows.rows]
    return list(zip(part.rows.texts, part.rows.pairs or [""] * len(part), strict=True))


def _contradictory(part: Part) -> int:
    labelled = set(zip(_keys(part), _labels(part).tolist(), strict=True))
    return sum(count > 1 for count in Counter(key for key, _ in labelled).values())


def encode_labels(
    values: Collection[str], indices: Mapping[str, int], place: Callable[[int], str], allowed: Collection[str]
) -> np.ndarray:
    """[n] int64 class indices of label texts.

    Args:
        indices: by every text that stands for a class.
        place: names a row.
        allowed: the labels as the message lists them.

    Raises:
        InputError: a label is none of them; names the row.
    """
    for row, value in enumerate(values):
        if value not in indices:
            shown = ", ".join(list(allowed)[:20]) + (", …" if len(allowed) > 20 else "")
            raise InputError(f"{place(row)}: the label {value!r} is none of the task's ({shown})")
    return np.array([indices[value] for value in values], dtype=np.int64)
