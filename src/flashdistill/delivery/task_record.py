"""What fine-tuning on tasks has found, as plain values: tables, cards and the report are functions of it.

The commands fill a `TasksRecord`; ``tasks.json`` of a run is its JSON form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.files import read_json, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.delivery.json_form import decode, encode

TASKS_FILE = "tasks.json"
"""Name of a record inside its run directory."""

SCHEMA = 1
"""Raised whenever a reader of another version could misunderstand the file."""

Role = Literal["", "student", "baseline", "teacher"]


@dataclass(frozen=True)
class TaskFacts:
    """A task and its data.

    Attributes:
        labels: of a classification.
        source: where the rows come from.
        rows: number of rows by split.
        selecting: the split and the metric by which seeds, epochs and sweeps are chosen.
        notes: what a reader of the scores should know.
    """

    name: str
    kind: str
    labels: Sequence[str]
    source: str
    identity: str
    rows: Mapping[str, int]
    selecting: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class TunedModel:
    """A model that was fine-tuned.

    Attributes:
        name: what tables call it.
        role: in the run; empty outside of one.
        directory: of the model that it was made from, relative to the run; empty outside of one.
    """

    name: str
    role: Role = ""
    directory: str = ""


@dataclass(frozen=True)
class TaskDifference:
    """Mean difference from the reference, seed by seed.

    Attributes:
        half_width: of its 95 % interval; None for a single seed.
        better: seeds in which the model is better, of ``seeds``.
    """

    mean: float
    half_width: float | None
    better: int
    seeds: int


@dataclass(frozen=True)
class TaskResult:
    """One metric of a model on a task's split, over seeds.

    Attributes:
        title, unit: of the metric.
        deviation: standard deviation over seeds; None for a single one.
        half_width: of the 95 % interval of the mean over seeds; None for a single one.
        samples: rows.
        values: by seed.
        errors: by seed, the standard error over the rows; None where it is not defined.
        difference: from the reference; None for the reference itself, or where there is none.
    """

    model: str
    task: str
    split: str
    metric: str
    title: str
    unit: str
    mean: float
    deviation: float | None
    half_width: float | None
    samples: int
    values: Mapping[int, float]
    errors: Mapping[int, float | None]
    difference: TaskDifference | None = None


@dataclass(frozen=True)
class TaskAverage:
    """A model's mean of one metric over several tasks; ``on`` is ``validation`` or ``test``."""

    model: str
    metric: str
    title: str
    unit: str
    on: str
    tasks: Sequence[str]
    value: float


@dataclass(frozen=True)
class TriedSettings:
    """A combination of a sweep; the value is None where it diverged."""

    settings: Mapping[str, float]
    value: float | None


@dataclass(frozen=True)
class FinetunedModel:
    """The fine-tuned model that was delivered for a model and a task: that of the best seed by validation.

    Attributes:
        model: what tables call the model that it was made from.
        source: where that model was.
        directory: of this one, relative to the output directory.
        key: what its files depend on.
        stock: whether `transformers` loads it without this tool.
        labels: of a classification.
        seed: of this model, of all ``seeds``.
        epochs: after each, the epoch and the selecting score.
        kept_epoch: whose weights these are.
        settings: of the training.
        sweep: what was tried before.
        onnx: whether there is an ONNX file; ``problem`` says why there is none, or no latency.
        parity_max_abs: largest absolute difference between the outputs of PyTorch and ONNX.
        measurements: on the target, in the task's shape.
        scores: of this very model, with task, split, metric and seed.
    """

    model: str
    source: str
    task: str
    kind: str
    directory: str
    key: str
    stock: bool
    num_parameters: int
    labels: Sequence[str]
    seed: int
    seeds: Sequence[int]
    epochs: Sequence[Sequence[float]]
    settings: Mapping[str, Any]
    steps: int
    seconds: float
    sweep: Sequence[TriedSettings] = ()
    onnx: bool = False
    problem: str = ""
    parity_max_abs: float | None = None
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    scores: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class TasksRecord:
    """Several models on several tasks.

    Attributes:
        seeds: of the fine-tunings.
        settings: the section ``finetune``.
        reference: the model that the others are compared with; empty where there is none.
        scores: every single score, with model, task, split, metric and seed.
        failures: what went wrong, one sentence each.
    """

    version: str
    seeds: Sequence[int]
    settings: Mapping[str, Any]
    tasks: Sequence[TaskFacts]
    models: Sequence[TunedModel]
    results: Sequence[TaskResult]
    averages: Sequence[TaskAverage] = ()
    reference: str = ""
    delivered: Sequence[FinetunedModel] = ()
    scores: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[str] = ()

    def results_of(self, model: str) -> list[TaskResult]:
        return [result for result in self.results if result.model == model]

    def save(self, path: Path) -> None:
        """Write the record as JSON, complete or not at all."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **encode(self)}


def load_tasks(run_directory: Path) -> TasksRecord | None:
    """What `flashdistill evaluate` found about a run; None before it was called.

    Raises:
        RunDirectoryError: the file is damaged, or another version's.
    """
    path = Path(run_directory) / TASKS_FILE
    if not path.exists():
        return None
    try:
        data = read_json(path)
        if data.pop("schema") != SCHEMA:
            raise ValueError("it was written by another version")
        return decode(TasksRecord, data)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}); run flashdistill evaluate again") from error
