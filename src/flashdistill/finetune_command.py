"""``flashdistill finetune``: models on tasks, over seeds, scored and delivered; the same call resumes.

OUTPUT/
  models/MODEL/TASK/   the fine-tuned model of the best seed: weights, ONNX, figures, card
  tunings/             every fine-tuning by what it depends on: scores, curves, checkpoints in training
  measurements/        the latency that all latencies refer to; every timed call
  tasks.json  log.txt
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashdistill.core.errors import DivergedError, TargetError
from flashdistill.core.files import content_key, write_json
from flashdistill.core.progress import Progress, Silent, tracked
from flashdistill.core.run_directory import RunDirectory
from flashdistill.data.tasks.loading import load_task
from flashdistill.data.tasks.task import Questions, Task
from flashdistill.delivery.deliver import FIGURES_FILE
from flashdistill.delivery.foreign_export import require_exporter
from flashdistill.delivery.json_form import encode
from flashdistill.delivery.task_card import write_task_card
from flashdistill.delivery.task_deliver import deliver_finetuned, delivered_finetuned
from flashdistill.delivery.task_export import is_student
from flashdistill.delivery.task_record import (
    TASKS_FILE,
    FinetunedModel,
    Role,
    TasksRecord,
    TriedSettings,
    TunedModel,
)
from flashdistill.evaluation.finetuning.finetune import check_together
from flashdistill.evaluation.finetuning.heads import load_finetuned, load_for_task
from flashdistill.evaluation.finetuning.kinds import recipe_for
from flashdistill.evaluation.finetuning.plan import PlanResult, Record, TuningPlan
from flashdistill.evaluation.finetuning.question_answers import write_predictions
from flashdistill.evaluation.finetuning.question_recipe import null_threshold
from flashdistill.evaluation.finetuning.scores import scores_to_json
from flashdistill.evaluation.finetuning.sources import Located, ModelSource, locate_source
from flashdistill.evaluation.finetuning.sweep import FACTORS, SweepResult
from flashdistill.evaluation.finetuning.teaching import EVALUATION_BATCH
from flashdistill.finetune_request import FinetuneRequest
from flashdistill.hardware.session import require_target
from flashdistill.hardware.settings import TargetSettings
from flashdistill.models.ib_bert import projects_block_input
from flashdistill.preflight import quiet_libraries
from flashdistill.task_latency import TaskLatency
from flashdistill.task_results import tasks_record
from flashdistill.training.compute import open_compute

_FORMAT = 1
"""Raised when a delivered directory comes to mean something else."""

TUNINGS, MODELS, MEASUREMENTS = "tunings", "models", "measurements"


@dataclass(frozen=True)
class Subject:
    """A model that is to be fine-tuned.

    Attributes:
        role, directory: in a run; see `TunedModel`.
    """

    source: ModelSource
    role: Role = ""
    directory: str = ""


def finetune(
    subjects: Mapping[str, Subject],
    request: FinetuneRequest,
    output: Path,
    progress: Progress,
    *,
    measure: bool = True,
    reference: str = "",
) -> TasksRecord | None:
    """Fine-tune every model on every task with every seed, and deliver the best seed of each.

    Args:
        subjects: by the names that tables show.
        measure: the latency of what is delivered, on the target in the task's shape.
        reference: the model that the others are compared with; empty: the first.

    Returns:
        None in all but the main process, where there are several.

    Raises:
        InputError: something the user gave cannot be used; nothing was trained.
        DivergedError: not one fine-tuning came to an end.
    """
    quiet_libraries()
    compute = open_compute(request.training)
    progress = progress if compute.is_main else Silent()
    directory = RunDirectory(output)
    with ExitStack() as stack:
        if compute.is_main:
            directory.create()
            stack.enter_context(directory.locked())
            if hasattr(progress, "attach_log"):
                progress.attach_log(directory.log)  # type: ignore[attr-defined]
        with compute.main_first():
            tasks = [load_task(task, request.seed) for task in request.tasks]
        _tell_notes(tasks, progress)
        plan = TuningPlan.of({name: one.source for name, one in subjects.items()}, tasks, request)
        with compute.main_first():
            _check(plan, progress)
        if measure and compute.is_main:
            require_target(request.target, directory.path / MEASUREMENTS, progress)
        result = plan.run(directory.path / TUNINGS, compute, progress)
        compute.close()
        if not compute.is_main:
            return None
        if not result.records:
            raise DivergedError("; ".join(result.failures))
        delivery = _Delivery(subjects, plan, result, request, directory.path, progress, measure, compute.device)
        models = [TunedModel(name, one.role, one.directory) for name, one in subjects.items()]
        compared_with = "" if len(models) == 1 else reference or models[0].name
        record = tasks_record(models, tasks, request, result, delivery.all(), compared_with)
        for model in record.delivered:
            write_task_card(model, record, directory.path / model.directory)
            write_json(directory.path / model.directory / FIGURES_FILE, encode(model))
        record.save(directory.path / TASKS_FILE)
        return record


def _tell_notes(tasks: Sequence[Task], progress: Progress) -> None:
    for task in tasks:
        for note in task.notes:
            progress.message(f"{task.name}: {note}")


def _check(plan: TuningPlan, progress: Progress) -> None:
    """Find out whether everything loads and fits together, before anything is trained.

    Raises:
        InputError: it does not.
    """
    by_kind = {task.kind: task for task in plan.tasks}
    foreign: list[str] = []
    teachers: dict[str, Located] = {}
    for name, source in plan.models.items():
        located = locate_source(source)
        for task in plan.tasks:
            if (teacher := check_together(located, task, plan.settings)) is not None:
                teachers[teacher.identity] = teacher
        loaded = [load_for_task(located, task, 0, plan.settings.dropout).model for task in by_kind.values()]
        if not all(map(is_student, loaded)):
            foreign.append(name)
    for teacher in teachers.values():
        load_finetuned(teacher)
    if foreign:
        try:
            require_exporter()
        except TargetError as error:
            progress.message(f"{', '.join(foreign)}: there will be no ONNX file and no latency: {error}")


@dataclass(frozen=True)
class _Delivery:
    """Delivers the best seed of every model and task; what is there already is kept."""

    subjects: Mapping[str, Subject]
    plan: TuningPlan
    result: PlanResult
    request: FinetuneRequest
    output: Path
    progress: Progress
    measured: bool
    device: torch.device

    def all(self) -> list[FinetunedModel]:
        best = self.result.best
        name = next(iter(best.values())).directory.name
        found: dict[tuple[str, str], FinetunedModel] = {}
        for tokens in dict.fromkeys(record.settings.tokens for record in best.values()):
            shape = self.request.shape_of(tokens)
            study = TaskLatency(shape, self.output / MEASUREMENTS, name, self.progress)
            with study if self.measured else nullcontext():
                found |= {
                    key: self._deliver(*key, record, study, shape)
                    for key, record in best.items()
                    if record.settings.tokens == tokens
                }
        return [found[key] for key in best]

    def _deliver(
        self, name: str, task_name: str, record: Record, study: TaskLatency, shape: TargetSettings
    ) -> FinetunedModel:
        task = next(task for task in self.plan.tasks if task.name == task_name)
        place = self.output / MODELS / record.directory.parent.relative_to(self.output / TUNINGS)
        target = shape.model_dump(mode="json") if self.measured else None
        key = content_key(_FORMAT, record.directory.name, target)
        if (found := delivered_finetuned(place, key)) is None:
            model: Any = load_finetuned(str(record.model))[0]
            facts = self._facts(name, task, record, place, key, model)
            label = f"{name} on {task.name}"
            measure = (lambda own, directory: study.measure(label, own, directory)) if self.measured else None
            with tracked(self.progress, f"deliver {label}"):
                found = deliver_finetuned(
                    facts, model, record.model, place, shape, measure, self._write_more(task, record)
                )
        # Which seeds there are beside it depends on the call.
        return dataclasses.replace(found, **self._of_this_call(name, task))

    def _facts(self, name: str, task: Task, record: Record, place: Path, key: str, model: Any) -> FinetunedModel:
        source = self.subjects[name].source
        return FinetunedModel(
            model=name,
            source=locate_source(source).name,
            task=task.name,
            kind=task.kind,
            directory=place.relative_to(self.output).as_posix(),
            key=key,
            stock=not projects_block_input(model.config),
            num_parameters=model.num_parameters(),
            labels=task.labels,
            seed=record.seed,
            seeds=(),
            epochs=[(epoch, value) for _, epoch, value in record.epochs],
            settings=record.settings.model_dump(mode="json"),
            steps=record.steps,
            seconds=record.seconds,
            scores=scores_to_json(record.scores),
        )

    def _of_this_call(self, name: str, task: Task) -> dict[str, Any]:
        sweep = self.result.sweeps.get((name, task.name))
        return {
            "model": name,
            "seeds": [record.seed for record in self.result.records[name, task.name]],
            "sweep": _tried(sweep) if sweep else (),
        }

    def _write_more(self, task: Task, record: Record) -> Callable[[Path], None]:
        def write(directory: Path) -> None:
            if task.kind == "question-answering":
                _write_answers(task, record, directory, self.device)

        return write


def _write_answers(task: Task, record: Record, directory: Path, device: torch.device) -> None:
    """The answers to the selecting split's questions, as SQuAD's official evaluation reads them."""
    rows = task.evaluation[task.selecting_split]
    assert isinstance(rows, Questions)
    recipe, (model, tokenizer) = recipe_for(task.kind), load_finetuned(str(record.model))
    features = recipe.features(rows, task, tokenizer, record.settings)
    outputs = recipe.outputs(model.to(device), features, EVALUATION_BATCH)  # type: ignore[arg-type]
    found = recipe.predictions(outputs, features, rows, record.settings)  # type: ignore[attr-defined]
    write_predictions(found, directory, null_threshold(task))


def _tried(sweep: SweepResult) -> list[TriedSettings]:
    return [
        TriedSettings({factor: float(getattr(trial.settings, factor)) for factor in FACTORS}, trial.value)
        for trial in sweep.trials
    ]
