"""What tasks made of an installed package's files have in common."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.parts import Part
from flashdistill.data.tasks.task import TaskKind


@dataclass(frozen=True)
class PackagedRows:
    """All rows of a task before they are divided into splits.

    Attributes:
        source: where they come from, as a model card says it.
        labels: of a classification.
        metrics: the first one selects.
        notes: what a reader of scores should know.
    """

    whole: Part
    source: str
    labels: tuple[str, ...] = ()
    kind: TaskKind = "classification"
    metrics: tuple[str, ...] = ("accuracy", "matthews")
    notes: tuple[str, ...] = ()


def installed_package(name: str, extra: str) -> Path:
    """The directory of an installed package, which is not imported.

    Raises:
        InputError: it is not installed; names the extra that brings it.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise InputError(f"this task reads the files of {name}: pip install 'flashdistill[{extra}]'")
    return Path(found.origin).parent
