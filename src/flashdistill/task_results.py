"""From what a plan of fine-tunings gives to the record that tables and cards show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from flashdistill.data.tasks.task import Rows, Sentences, Task
from flashdistill.delivery.task_record import (
    FinetunedModel,
    TaskAverage,
    TaskDifference,
    TaskFacts,
    TaskResult,
    TasksRecord,
    TunedModel,
)
from flashdistill.evaluation.finetuning.metrics import TASK_METRICS
from flashdistill.evaluation.finetuning.plan import PlanResult
from flashdistill.evaluation.finetuning.scores import (
    Average,
    Comparison,
    Summary,
    TaskScore,
    averages,
    compare,
    scores_to_json,
    summarise,
)
from flashdistill.evaluation.finetuning.settings import FinetuneSettings


def tasks_record(
    models: Sequence[TunedModel],
    tasks: Sequence[Task],
    settings: FinetuneSettings,
    result: PlanResult,
    delivered: Sequence[FinetunedModel],
    reference: str = "",
) -> TasksRecord:
    """The record of a plan.

    Args:
        reference: the model that the others are compared with; empty: none.
    """
    scores = result.scores
    compared = {
        (one.model, one.task, one.split, one.metric): one
        for model in models
        if reference and model.name != reference
        for one in compare(scores, model.name, reference)
    }
    shown = {name: value for name, value in settings.model_dump(mode="json").items() if name not in _ELSEWHERE}
    return TasksRecord(
        version=version("flashdistill"),
        seeds=list(range(settings.seeds)),
        settings=shown,
        tasks=[task_facts(task) for task in tasks],
        models=models,
        results=[_result(summary, scores, compared) for summary in summarise(scores)],
        averages=[_average(one) for one in averages(scores)],
        reference=reference,
        delivered=delivered,
        scores=scores_to_json(scores),
        failures=[*result.failures, *(f"{one.model} on {one.task}: {one.problem}" for one in delivered if one.problem)],
    )


_ELSEWHERE = ("target", "training", "seed", "tasks")
"""Keys of a request that are no settings of fine-tuning, or are told as facts."""


def task_facts(task: Task) -> TaskFacts:
    splits: Mapping[str, Rows] = {"train": task.train, **task.evaluation}
    counts = {name: len(rows) for name, rows in splits.items()}
    if task.test is not None and not (isinstance(task.test, Sentences) and task.test.labels is None):
        counts["test"] = len(task.test)
    selecting = (task.selecting_split, task.metrics[0])
    return TaskFacts(task.name, task.kind, task.labels, task.source, task.identity, counts, selecting, task.notes)


def _result(
    summary: Summary, scores: Sequence[TaskScore], compared: Mapping[tuple[str, str, str, str], Comparison]
) -> TaskResult:
    key = (summary.model, summary.task, summary.split, summary.metric)
    own = [one for one in scores if (one.model, one.task, one.split, one.metric) == key]
    metric, found = TASK_METRICS[summary.metric], compared.get(key)
    return TaskResult(
        *key,
        title=metric.title,
        unit=metric.unit,
        mean=summary.spread.mean,
        deviation=summary.spread.deviation,
        half_width=summary.spread.half_width,
        samples=own[0].samples,
        values={one.seed: one.value for one in own},
        errors={one.seed: one.stderr for one in own},
        difference=_difference(found) if found else None,
    )


def _difference(found: Comparison) -> TaskDifference:
    spread = found.difference
    return TaskDifference(spread.mean, spread.half_width, found.better, spread.count)


def _average(one: Average) -> TaskAverage:
    metric = TASK_METRICS[one.metric]
    return TaskAverage(one.model, one.metric, metric.title, metric.unit, one.on, one.tasks, one.value)
