"""From settings to a `Task`: the one door through which rows of any kind come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flashdistill.core.errors import InputError
from flashdistill.core.registry import load
from flashdistill.data.tasks.checks import check_rows, check_splits, split_notes
from flashdistill.data.tasks.identity import rows_identity
from flashdistill.data.tasks.own import load_own
from flashdistill.data.tasks.parts import Part, RawTask
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tasks.splits import hold_out, limit
from flashdistill.data.tasks.task import Task

_GLUE = "flashdistill.data.tasks.glue:load_glue"
_SQUAD = "flashdistill.data.tasks.squad:load_squad"
_PACKAGED = "flashdistill.data.tasks.packaged:load_packaged"

TASKS = {
    "cola": _GLUE,
    "mnli": _GLUE,
    "mrpc": _GLUE,
    "qnli": _GLUE,
    "qqp": _GLUE,
    "rte": _GLUE,
    "sst2": _GLUE,
    "stsb": _GLUE,
    "wnli": _GLUE,
    "squad": _SQUAD,
    "squad2": _SQUAD,
    "news-topics": _PACKAGED,
    "news-headlines": _PACKAGED,
    "wikipedia-neighbours": _PACKAGED,
    "wikipedia-cloze": _PACKAGED,
    "movie-polarity": _PACKAGED,
}
"""The public tasks by name. A task with a ``kind`` is the user's own, whatever its name."""


def load_task(settings: TaskSettings, seed: int) -> Task:
    """Read a task, check its rows, hold out validation rows where none are given, and shorten it.

    Args:
        seed: decides which rows are held out and which are left of a shortened task. Models that
            are to be compared need the same one, whatever seed each is trained with.

    Raises:
        InputError: no such task, files or rows that are not as they must be; says where.
    """
    raw = _read(settings)
    oddities = check_rows(raw)
    raw = _with_validation(raw, settings, seed)
    notes = [*raw.notes, *oddities, *split_notes(raw)]
    raw = _shortened(raw, settings, seed)
    check_splits(raw)
    splits = {name: part.rows for name, part in raw.parts().items()}
    return Task(
        name=raw.name,
        kind=raw.kind,
        train=raw.train.rows,
        evaluation={name: part.rows for name, part in raw.evaluation.items()},
        metrics=raw.metrics,
        labels=raw.labels,
        test=None if raw.test is None else raw.test.rows,
        unanswerable=raw.unanswerable,
        source=raw.source,
        identity=rows_identity(raw.labels, splits),
        notes=tuple(notes),
    )


def _read(settings: TaskSettings) -> RawTask:
    if settings.kind is not None:
        return load_own(settings)
    try:
        read: Callable[[TaskSettings], RawTask] = load(TASKS, settings.name, "task")
    except ValueError as error:
        raise InputError(f"{error}; for a task of your own set kind and data") from error
    return read(settings)


def _with_validation(raw: RawTask, settings: TaskSettings, seed: int) -> RawTask:
    if raw.evaluation:
        return raw
    stream = ("validation rows", raw.name, seed)
    train, validation = hold_out(raw.train, settings.validation_fraction, *stream)
    note = f"{len(validation)} of {len(raw.train)} train rows are held out for validation"
    return replace(raw, train=train, evaluation={"validation": validation}, notes=(*raw.notes, note))


def _shortened(raw: RawTask, settings: TaskSettings, seed: int) -> RawTask:
    def at_most(name: str, rows: int | None) -> Part:
        return limit(raw.parts()[name], rows, "fewer rows", raw.name, name, seed)

    return replace(
        raw,
        train=at_most("train", settings.max_train_rows),
        evaluation={name: at_most(name, settings.max_evaluation_rows) for name in raw.evaluation},
        test=None if raw.test is None else at_most("test", settings.max_evaluation_rows),
    )
