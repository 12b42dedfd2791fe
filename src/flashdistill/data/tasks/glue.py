"""Loading the nine tasks of GLUE, from their official files or by `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.checks import encode_labels
from flashdistill.data.tasks.glue_files import read_glue_files
from flashdistill.data.tasks.glue_tasks import GLUE_TASKS, GlueTask, glue_task
from flashdistill.data.tasks.hub import class_names, columns_of, is_dataset_copy, load_splits, read_copy, required_split
from flashdistill.data.tasks.parts import Part, RawTask
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tasks.task import Sentences

HUB_NAME = "nyu-mll/glue"


def load_glue(settings: TaskSettings) -> RawTask:
    """One of `GLUE_TASKS`, from its official files or by `datasets`.

    The official test rows are left out: their labels are not public. Rows without a gold label,
    which some releases of MNLI have, are left out too.

    Raises:
        InputError: files are missing or are not the task's; names the file and the line.
    """
    name, data = settings.name, settings.data
    spec = GLUE_TASKS[name]
    if isinstance(data, str) and is_dataset_copy(directory := Path(data).expanduser()):
        return _from_splits(name, spec, read_copy(directory, name), f"{directory} ({name})")
    if data is not None:
        return read_glue_files(name, spec, data)
    version = f" at {settings.revision}" if settings.revision else ""
    return _from_splits(name, spec, load_splits(HUB_NAME, name, settings.revision), f"{HUB_NAME} ({name}){version}")


def _from_splits(name: str, spec: GlueTask, splits: dict[str, Any], where: str) -> RawTask:
    notes: list[str] = []
    parts: dict[str, Part] = {}
    for split in ("train", *dict(spec.splits)):
        place = f"{where}, split {split}"
        parts[split] = _dataset_part(required_split(splits, split, where), spec, place, notes)
    return glue_task(name, spec, parts, f"GLUE {name}, data set {where}", notes)


def _dataset_part(split: Any, spec: GlueTask, where: str, notes: list[str]) -> Part:
    names = (spec.hub_text, *([spec.hub_pair] if spec.hub_pair else []), "label")
    columns = columns_of(split, names, where)
    values = columns["label"]
    # -1 stands for a label that is not given. A missing score is not a number and is found later.
    kept = [row for row, value in enumerate(values) if not spec.labels or value >= 0]
    if not kept:
        raise InputError(f"{where}: the labels are not public")
    if dropped := len(values) - len(kept):
        notes.append(f"{where}: {dropped} rows without a label are left out")
    if spec.labels:
        declared = class_names(split, "label") or spec.labels
        indices = {label: index for index, label in enumerate(spec.labels)}
        named = [declared[values[row]] if values[row] < len(declared) else str(values[row]) for row in kept]
        labels = encode_labels(named, indices, lambda row: f"{where}, row {kept[row]}", spec.labels)
    else:
        labels = np.array(values, dtype=np.float32)
    texts, pairs = columns[spec.hub_text], columns[spec.hub_pair] if spec.hub_pair else None
    rows = Sentences([texts[row] for row in kept], pairs and [pairs[row] for row in kept], labels)
    return Part(rows, where, kept, lines=False)
