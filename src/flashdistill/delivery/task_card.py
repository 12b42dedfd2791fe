"""The model card of a fine-tuned model, and what it says to model hubs."""

from __future__ import annotations

from pathlib import Path

from flashdistill.core.files import write_text
from flashdistill.core.measurement import Measurement
from flashdistill.delivery.formatting import (
    capitalized,
    flattened,
    format_count,
    format_measurement,
    format_seconds,
    metric_name,
)
from flashdistill.delivery.model_card import CARD_FILE, card_environment
from flashdistill.delivery.task_record import FinetunedModel, TaskFacts, TaskResult, TasksRecord
from flashdistill.delivery.task_tables import metric_text, score_text

_PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "question-answering": "question-answering",
}
_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}


def write_task_card(model: FinetunedModel, record: TasksRecord, directory: Path) -> Path:
    """Write the card of a fine-tuned model into its directory; returns its path."""
    path = Path(directory) / CARD_FILE
    write_text(path, render_task_card(model, record))
    return path


def render_task_card(model: FinetunedModel, record: TasksRecord) -> str:
    """The card's text: front matter in YAML, then Markdown."""
    facts = next(task for task in record.tasks if task.name == model.task)
    results = [result for result in record.results_of(model.model) if result.task == model.task]
    latency = model.measurements.get("latency_ms")
    return (
        card_environment()
        .get_template("task_card.md.j2")
        .render(
            model=model,
            task=facts,
            pipeline=_PIPELINES[model.kind],
            auto_class=_CLASSES[model.kind],
            index=[_indexed(result, model.seed) for result in results],
            figures=[_figure(result, model.seed) for result in results],
            several_seeds=len(model.seeds) > 1,
            measured=[(capitalized(metric_name(name)), format_measurement(one)) for name, one in _shown(model)],
            latency_conditions=flattened(latency.environment) if latency else [],
            noisy=bool(latency and latency.details.get("noisy")),
            data=_data_facts(facts),
            settings=flattened(model.settings),
            steps=format_count(model.steps),
            time=format_seconds(model.seconds),
            epochs=[(f"{epoch:g}", score_text(_unit(results, facts), value)) for epoch, value in model.epochs],
            parity=f"{model.parity_max_abs:.1e}" if model.parity_max_abs is not None else "",
            version=record.version,
            parameters=format_count(model.num_parameters),
        )
    )


def _figure(result: TaskResult, seed: int) -> tuple[str, ...]:
    """Row of the table: split, metric, rows, this model, all seeds."""
    value, error = result.values.get(seed), result.errors.get(seed)
    return (
        result.split.replace("_", " "),
        metric_text(result.title, result.unit),
        format_count(result.samples),
        "" if value is None else score_text(result.unit, value, error),
        score_text(result.unit, result.mean, result.deviation),
    )


def _indexed(result: TaskResult, seed: int) -> dict[str, object]:
    """An entry of the hub's ``model-index``."""
    return {"split": result.split, "type": result.metric, "title": result.title, "value": result.values.get(seed)}


def _shown(model: FinetunedModel) -> list[tuple[str, Measurement]]:
    names = ("latency_ms", "latency_p50_ms", "throughput_per_s", "peak_memory_bytes", "artifact_bytes")
    return [(name, model.measurements[name]) for name in names if name in model.measurements]


def _data_facts(task: TaskFacts) -> list[tuple[str, str]]:
    rows = ", ".join(f"{name.replace('_', ' ')} {format_count(count)}" for name, count in task.rows.items())
    facts = [("source", task.source), ("rows", rows), ("labels", ", ".join(task.labels)), ("key", task.identity)]
    return [(name, value) for name, value in facts if value]


def _unit(results: list[TaskResult], task: TaskFacts) -> str:
    return next((one.unit for one in results if (one.split, one.metric) == tuple(task.selecting)), "")
