"""GLUE's official files: tab-separated, without quoting, each task with its own columns.

Quotation marks are characters of the texts. A line that lacks columns, as a few lines of QQP do,
is left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from flashdistill.core.errors import InputError
from flashdistill.core.registry import did_you_mean
from flashdistill.data.readers.files import read_pieces
from flashdistill.data.readers.tables import MAX_ROW_BYTES
from flashdistill.data.tasks.checks import encode_labels
from flashdistill.data.tasks.glue_tasks import GlueTask, glue_task
from flashdistill.data.tasks.parts import Part, RawTask
from flashdistill.data.tasks.settings import SplitFiles
from flashdistill.data.tasks.task import Sentences

_MAX_BROKEN_SHARE = 0.01
"""More lines that lack columns than this are no oddity of the release but another file format."""

_MSR_TRAIN, _MSR_TEST, _MSR_DEV_IDS = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"

Keep = Callable[[dict[str, str]], bool]


def read_glue_files(name: str, spec: GlueTask, data: str | SplitFiles) -> RawTask:
    """A task of GLUE from its directory, the directory of all tasks, one training file, or a file a split.

    A single training file, and the Microsoft Research corpus of MRPC without ``dev_ids.tsv``, leave
    the validation rows to be held out.

    Raises:
        InputError: names the file, and the line where there is one.
    """
    notes: list[str] = []
    if isinstance(data, SplitFiles):
        files = {"train": data.train, "validation": data.validation, "test": data.test}
        paths = {split: Path(path).expanduser() for split, path in files.items() if path is not None}
        source = "files"
    else:
        path = Path(data).expanduser()
        if path.is_dir():
            directory = path if _has_train(path) or not (path / spec.folder).is_dir() else path / spec.folder
            if name == "mrpc" and not (directory / "train.tsv").is_file() and (directory / _MSR_TRAIN).is_file():
                return glue_task(name, spec, _read_msr(spec, directory, notes), f"{_MSR_TRAIN} of MRPC", notes)
            stems = {"train": "train", **dict(spec.splits)}
            paths = {split: directory / f"{stem}.tsv" for split, stem in stems.items()}
            source = f"the official files of {spec.folder}"
        else:
            paths, source = {"train": path}, f"file {path.name}"
    for path in paths.values():
        if not path.is_file():
            raise InputError(
                f"the task {name}: no file {str(path)!r} (relative to {Path.cwd()}); data names the directory with "
                f"GLUE's {', '.join(f'{stem}.tsv' for stem in ('train', *dict(spec.splits).values()))}"
            )
    parts = {split: read_part(path, spec, notes) for split, path in paths.items()}
    return glue_task(name, spec, parts, f"GLUE {name}, {source}", notes)


def _has_train(directory: Path) -> bool:
    return (directory / "train.tsv").is_file() or (directory / _MSR_TRAIN).is_file()


def read_part(path: Path, spec: GlueTask, notes: list[str], keep: Keep | None = None) -> Part:
    """The labelled rows of one official file; what is left out is added to ``notes``.

    Args:
        keep: whether a row, by column, belongs to the part; None keeps all.

    Raises:
        InputError: not the task's columns, an unknown label or score, or no rows.
    """
    columns = [spec.text, spec.label] + ([spec.pair] if spec.pair else [])
    texts: list[str] = []
    pairs: list[str] = []
    labels: list[str] = []
    lines: list[int] = []
    broken: list[int] = []
    unlabelled = total = 0
    for line, row in _rows(path, spec, columns):
        total += 1
        if row is None:
            broken.append(line)
        elif row[spec.label] == "-":
            unlabelled += 1
        elif keep is None or keep(row):
            texts.append(row[spec.text])
            pairs.append(row[spec.pair] if spec.pair else "")
            labels.append(row[spec.label])
            lines.append(line)
    if broken:
        if len(broken) > max(1, _MAX_BROKEN_SHARE * total):
            raise InputError(
                f"{path}:{broken[0]}: this and {len(broken) - 1} further of {total} lines lack columns; "
                f"a file of {spec.folder} is separated by tabs, without quoting"
            )
        notes.append(f"{path.name}: {len(broken)} lines lack columns and are left out (the first is line {broken[0]})")
    if unlabelled:
        notes.append(f"{path.name}: {unlabelled} rows without a gold label are left out")
    values = _labels(labels, spec, lambda row: f"{path}:{lines[row]}")
    return Part(Sentences(texts, pairs if spec.pair else None, values), str(path), lines)


def _rows(path: Path, spec: GlueTask, columns: list[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Lines counted from 1 and their fields by column; None in place of a line that lacks some."""
    header = None if spec.header is None else list(spec.header)
    for number, line in enumerate(read_pieces(path, MAX_ROW_BYTES), start=1):
        fields = line.rstrip("\n").split("\t")
        if header is None:
            header = fields
            for column in columns:
                if column not in header:
                    raise InputError(
                        f"{path}:{number}: no column {column!r}; present: {', '.join(header)}"
                        f"{did_you_mean(column, header)}. The official test files of GLUE have no labels"
                    )
        elif line.strip():
            # Further fields belong to no column.
            yield number, dict(zip(header, fields, strict=False)) if len(fields) >= len(header) else None


def _labels(values: list[str], spec: GlueTask, place: Callable[[int], str]) -> np.ndarray:
    if spec.labels:
        named = {label: index for index, label in enumerate(spec.labels)}
        numbered = {str(index): index for index in named.values()}
        return encode_labels(values, named | numbered, place, spec.labels)
    scores = np.empty(len(values), dtype=np.float32)
    for row, value in enumerate(values):
        try:
            scores[row] = float(value)
        except ValueError as error:
            raise InputError(f"{place(row)}: the {spec.label} {value!r} is not a number") from error
    return scores


def _read_msr(spec: GlueTask, directory: Path, notes: list[str]) -> dict[str, Part]:
    """MRPC as Microsoft published it; GLUE's validation rows are those that ``dev_ids.tsv`` lists.

    Its test rows have labels, which GLUE's own test file withholds.
    """
    train = directory / _MSR_TRAIN
    test = {"test": read_part(directory / _MSR_TEST, spec, notes)} if (directory / _MSR_TEST).is_file() else {}
    if not (directory / _MSR_DEV_IDS).is_file():
        return {"train": read_part(train, spec, notes), **test}
    held_out = {tuple(line.split()) for line in read_pieces(directory / _MSR_DEV_IDS, MAX_ROW_BYTES)}

    def validates(row: dict[str, str]) -> bool:
        return (row["#1 ID"], row["#2 ID"]) in held_out

    return {
        "train": read_part(train, spec, notes, lambda row: not validates(row)),
        "validation": read_part(train, spec, notes, validates),
        **test,
    }
