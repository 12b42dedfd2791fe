"""Scores on tasks as aligned text for a terminal, and where the fine-tuned models are."""

from __future__ import annotations

from pathlib import Path

from flashdistill.delivery.formatting import aligned, format_measurement
from flashdistill.delivery.task_record import TaskResult, TasksRecord
from flashdistill.delivery.task_tables import (
    averages_by_row,
    by_row,
    difference_text,
    metric_text,
    score_text,
    seeds_text,
)


def tasks_text(record: TasksRecord) -> str:
    """A row for every task, split and metric, a column for every model; then the differences from the reference."""
    names = [model.name for model in record.models]
    rows = [["task", "split", "metric", "rows", *names]]
    differences = [["difference from", record.reference, "[95 %]", "", *names]]
    for (task, split, _), found in by_row(record).items():
        one = next(iter(found.values()))
        facts = [task, split, metric_text(one.title, one.unit), f"{one.samples:,}"]
        rows.append([*facts, *(_score(found.get(name)) for name in names)])
        compared = {name: difference_text(result.unit, result.difference) for name, result in found.items()}
        differences.append([*facts, *(compared.get(name) or "-" for name in names)])
    for (_, on), averages in averages_by_row(record).items():
        one = next(iter(averages.values()))
        facts = [f"average of {len(one.tasks)} tasks", on, metric_text(one.title, one.unit), ""]
        values = [averages[name].value if name in averages else None for name in names]
        rows.append([*facts, *("-" if value is None else score_text(one.unit, value) for value in values)])
    parts = [*aligned(rows), "", seeds_text(record)]
    if record.reference:
        parts += ["", *aligned(differences)]
    return "\n".join([*parts, *(f"warning: {failure}" for failure in record.failures)])


def _score(result: TaskResult | None) -> str:
    return "-" if result is None else score_text(result.unit, result.mean, result.deviation)


def models_text(record: TasksRecord, output: Path) -> str:
    """The directory of every model that was delivered, with its latency in the task's shape where it was measured."""
    rows = []
    for model in record.delivered:
        latency = model.measurements.get("latency_ms")
        said = f"{format_measurement(latency, interval=True)} a call" if latency else model.problem
        rows.append([f"model: {output / model.directory}", said])
    return "\n".join(aligned(rows))
