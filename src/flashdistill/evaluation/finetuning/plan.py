"""Several models, tasks and seeds as one plan: what is done is kept, what is left is done.

directory/MODEL/TASK/sweep-KEY/            the trials, where a sweep is configured
directory/MODEL/TASK/KEY/result.json       scores and settings of one fine-tuning
directory/MODEL/TASK/KEY/model/            its weights; at last only those of the best seed
directory/shared/                          what a fine-tuned teacher says about a task
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flashdistill.core.errors import DivergedError
from flashdistill.core.files import content_key, read_json, write_json
from flashdistill.core.progress import Progress, Silent
from flashdistill.data.tasks.task import Task
from flashdistill.evaluation.finetuning.finetune import Finetuned, Kept, check_together, finetune
from flashdistill.evaluation.finetuning.metrics import TASK_METRICS
from flashdistill.evaluation.finetuning.scores import TaskScore, scores_from_json, scores_to_json
from flashdistill.evaluation.finetuning.settings import FinetuneSettings, Sweep, TuningSettings
from flashdistill.evaluation.finetuning.sources import Located, ModelSource, locate_source, with_length
from flashdistill.evaluation.finetuning.sweep import SweepResult, run_sweep
from flashdistill.training.compute import Compute

RESULT = "result.json"
MODEL = "model"
SHARED = "shared"

_FORMAT = 1
"""Raised when the same settings come to mean another result."""


@dataclass(frozen=True)
class Record:
    """One finished fine-tuning, as ``result.json`` has it.

    Attributes:
        directory: with the record and, under ``model``, perhaps the weights.
        selecting: the selecting metric on the selecting split.
        epochs: (step, epoch, selecting score) after each epoch.
        curve: (step, training loss).
    """

    directory: Path
    scores: list[TaskScore]
    settings: TuningSettings
    seed: int
    selecting: float
    epochs: list[tuple[int, float, float]]
    curve: list[tuple[int, float]]
    steps: int
    seconds: float

    @property
    def model(self) -> Path:
        return self.directory / MODEL


@dataclass
class PlanResult:
    """What a plan gives.

    Attributes:
        records: by model and task, one for each seed that did not diverge.
        best: by model and task, the record of the best seed by the selecting split; it has its weights.
        sweeps: by model and task, where one is configured.
        failures: a sentence for each fine-tuning that diverged.
    """

    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)
    best: dict[tuple[str, str], Record] = field(default_factory=dict)
    sweeps: dict[tuple[str, str], SweepResult] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def scores(self) -> list[TaskScore]:
        return [score for records in self.records.values() for record in records for score in record.scores]


@dataclass(frozen=True)
class TuningPlan:
    """Every model on every task with every seed.

    Attributes:
        models: by the name that tables show.
        seeds: what the fine-tunings of a model on a task differ in.
        sweep: for each model and task, with the first seed; None: ``settings`` as they are.
        keep_all: the weights of every seed, not of the best alone.
    """

    models: Mapping[str, ModelSource]
    tasks: Sequence[Task]
    seeds: Sequence[int]
    settings: TuningSettings
    score: Kept = "last"
    sweep: Sweep | None = None
    keep_all: bool = False

    @classmethod
    def of(cls, models: Mapping[str, ModelSource], tasks: Sequence[Task], settings: FinetuneSettings) -> TuningPlan:
        """The plan of a section ``finetune``."""
        one = TuningSettings.model_validate({name: getattr(settings, name) for name in TuningSettings.model_fields})
        return cls(models, tasks, range(settings.seeds), one, settings.score, settings.sweep)

    def run(self, directory: Path, compute: Compute | None = None, progress: Progress | None = None) -> PlanResult:
        """Do what is left of the plan; everything is checked before the first weight is trained.

        A fine-tuning that diverges is recorded, and the plan goes on.

        Raises:
            InputError: a model, a task and the settings do not go together.
            KeyboardInterrupt: the process was asked to stop; the same call goes on later.
        """
        compute, progress = compute or Compute(), progress or Silent()
        located = {name: replace(locate_source(source), name=name) for name, source in self.models.items()}
        suited: dict[tuple[str, str], TuningSettings] = {}
        for name, model in located.items():
            for task in self.tasks:
                teacher = check_together(model, task, self.settings)
                suited[name, task.name] = with_length(self.settings, task.kind, model, teacher)
        result = PlanResult()
        for name, model in located.items():
            for task in self.tasks:
                place = directory / _file_name(name) / _file_name(task.name)
                settings = suited[name, task.name]
                group = _Group(name, model, task, self, settings, place, directory / SHARED, compute, progress)
                group.run(result)
        return result


@dataclass(frozen=True)
class _Group:
    """One model on one task: the sweep, then all seeds.

    Attributes:
        settings: the plan's, their length suited to the model and the task.
    """

    name: str
    located: Located
    task: Task
    plan: TuningPlan
    settings: TuningSettings
    place: Path
    shared: Path
    compute: Compute
    progress: Progress

    def run(self, result: PlanResult) -> None:
        key = (self.name, self.task.name)
        settings = self.settings
        if self.plan.sweep is not None:
            try:
                result.sweeps[key] = self._sweep(settings, self.plan.sweep)
            except DivergedError as error:
                result.failures.append(f"{self.name} on {self.task.name}: {error}")
                return
            settings = result.sweeps[key].best
        records: list[Record] = []
        for seed in self.plan.seeds:
            try:
                records.append(self._record(settings, seed))
            except DivergedError as error:
                result.failures.append(f"{self.name} on {self.task.name}, seed {seed}: {error}")
        if records:
            result.records[key] = records
            best = self._best(records)
            # Another plan in this directory may have had no use for its weights.
            result.best[key] = best if best.model.is_dir() else self._record(settings, best.seed, again=True)
            tried = result.sweeps[key].trials if key in result.sweeps else []
            self._drop_weights(records, result.best[key], [trial.settings for trial in tried])

    def _sweep(self, settings: TuningSettings, sweep: Sweep) -> SweepResult:
        first = next(iter(self.plan.seeds))
        goal = TASK_METRICS[self.task.metrics[0]].goal

        def run(tried: TuningSettings) -> float:
            return self._record(tried, first).selecting

        # A study holds what was found about these rows and these weights, and about no others.
        study = self.place / f"sweep-{self._key(settings, first)}"
        return run_sweep(settings, sweep, goal, first, study, run, self.compute, self.progress)

    def _record(self, settings: TuningSettings, seed: int, again: bool = False) -> Record:
        """The record of a fine-tuning, from its file or, where there is none or ``again``, from training."""
        directory = self.place / self._key(settings, seed)
        done = self.compute.from_main((directory / RESULT).exists())
        if again or not done:
            tuned = finetune(
                self.located,
                self.task,
                settings,
                seed,
                directory / "work",
                self.compute,
                self.progress,
                self.plan.score,
                self.shared,
            )
            if self.compute.is_main:
                self._write(directory, tuned, settings, seed)
            self.compute.wait()
        return _read(directory)

    def _write(self, directory: Path, tuned: Finetuned, settings: TuningSettings, seed: int) -> None:
        tuned.save(directory / MODEL)
        scores = [
            TaskScore.of(measurement, self.name, self.task.name, split, seed)
            for split, by_metric in tuned.scores.items()
            for measurement in by_metric.values()
        ]
        write_json(
            directory / RESULT,
            {
                "scores": scores_to_json(scores),
                "settings": settings.model_dump(mode="json"),
                "seed": seed,
                "selecting": tuned.scores[self.task.selecting_split][self.task.metrics[0]].value,
                "epochs": [list(asdict(score).values()) for score in tuned.epochs],
                "curve": tuned.curve.points,
                "steps": tuned.steps,
                "seconds": tuned.seconds,
            },
        )
        # Only now: until the record is there, the checkpoints are all there is.
        shutil.rmtree(directory / "work", ignore_errors=True)

    def _key(self, settings: TuningSettings, seed: int) -> str:
        task = self.task
        parts = (self.located.identity, task.identity, task.metrics, settings.model_dump(), seed, self.plan.score)
        return content_key(_FORMAT, *parts)

    def _best(self, records: list[Record]) -> Record:
        better = TASK_METRICS[self.task.metrics[0]].better
        best = records[0]
        for record in records[1:]:
            if better(record.selecting, best.selecting):
                best = record
        return best

    def _drop_weights(self, records: list[Record], best: Record, tried: list[TuningSettings]) -> None:
        """Keep the weights that are asked for; what a sweep left belongs to the others."""
        if not self.compute.is_main:
            return
        first = next(iter(self.plan.seeds))
        made = {record.directory for record in records} | {self.place / self._key(one, first) for one in tried}
        kept = {record.directory for record in (records if self.plan.keep_all else [best])}
        for directory in made - kept:
            shutil.rmtree(directory / MODEL, ignore_errors=True)


def _read(directory: Path) -> Record:
    stored: dict[str, Any] = read_json(directory / RESULT)
    return Record(
        directory,
        scores_from_json(stored["scores"]),
        TuningSettings.model_validate(stored["settings"]),
        stored["seed"],
        stored["selecting"],
        [(int(step), epoch, value) for step, epoch, value in stored["epochs"]],
        [(int(step), loss) for step, loss in stored["curve"]],
        stored["steps"],
        stored["seconds"],
    )


def _file_name(name: str) -> str:
    """A name as a directory's: hub ids have slashes."""
    return re.sub(r"[^\w.+-]+", "--", name).strip(".-") or "model"
