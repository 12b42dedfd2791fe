"""The model card: ``README.md`` beside the weights, with the metadata that model hubs read."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flashdistill.core.files import content_key, write_text
from flashdistill.core.measurement import Measurement
from flashdistill.delivery.facts import corpus_facts, teacher_facts
from flashdistill.delivery.formatting import (
    MISSING,
    capitalized,
    flattened,
    format_count,
    format_difference,
    format_measurement,
    metric_name,
)
from flashdistill.delivery.record import DeliveredModel, RunRecord
from flashdistill.delivery.task_record import TasksRecord
from flashdistill.delivery.task_tables import card_rows, seeds_text

CARD_FILE = "README.md"
TEMPLATES = Path(__file__).parent / "templates"

# An underscore inside a word has no meaning in Markdown, and names are full of them.
_MARKDOWN = re.compile(r"([\\`*{}\[\]|#~]|(?<!\w)_|_(?!\w))")


def write_model_card(
    model: DeliveredModel, record: RunRecord, directory: Path, tasks: TasksRecord | None = None
) -> Path:
    """Write the card of a delivered model into its directory.

    Args:
        record: of the run so far; what it does not know yet is left out of the card.
        directory: where the model's files are.
        tasks: what it and others are worth on tasks, where that is known.

    Returns:
        The card's path.
    """
    path = Path(directory) / CARD_FILE
    write_text(path, render_model_card(model, record, tasks))
    return path


def render_model_card(model: DeliveredModel, record: RunRecord, tasks: TasksRecord | None = None) -> str:
    """The card's text: front matter in YAML, then Markdown."""
    template = record.space.template if record.space else ""
    return (
        card_environment()
        .get_template("card.md.j2")
        .render(
            model=model,
            record=record,
            tasks=card_rows(tasks, str(model.architecture)) if tasks else [],
            task_seeds=seeds_text(tasks) if tasks else "",
            task_reference=tasks.reference if tasks else "",
            template=template,
            stock=template != "autodistill",
            figures=_figures(model, record),
            latency_conditions=_latency_conditions(model, record),
            teacher=teacher_facts(record),
            corpus=corpus_facts(record),
            steps=format_count(model.steps) if model.steps is not None else "",
            settings=flattened(record.regular),
            settings_key=content_key(record.teacher and record.teacher.source_sha256, record.regular, record.seed),
            versions=flattened(record.environment),
            noisy=any(item.details.get("noisy") for item in model.measurements.values()),
            parity=f"{model.parity_max_abs:.1e}" if model.parity_max_abs is not None else "",
        )
    )


def card_environment() -> Environment:
    """Templates of cards, with the filters ``md`` and ``quoted``."""
    environment = Environment(  # nosec B701  # see autoescape
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # not HTML: `md` escapes for Markdown and `quoted` for YAML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape_markdown
    environment.filters["quoted"] = lambda text: json.dumps(str(text), ensure_ascii=False)
    return environment


def escape_markdown(text: object) -> str:
    """The text on one line, with nothing in it that Markdown or HTML would act on."""
    return escape(_MARKDOWN.sub(r"\\\1", " ".join(str(text).split())), quote=False)


def _figures(model: DeliveredModel, record: RunRecord) -> list[tuple[str, str, str, str]]:
    """Rows of the table: metric, this model, the baseline at the same budget, the difference."""
    baseline = None if model.is_baseline else record.delivered_baseline
    rows = []
    for metric, measurement in model.measurements.items():
        reference: Measurement | None = baseline.measurements.get(metric) if baseline else None
        rows.append(
            (
                capitalized(metric_name(metric)),
                format_measurement(measurement),
                format_measurement(reference),
                format_difference(metric, measurement.value, reference.value if reference else None) or MISSING,
            )
        )
    return rows


def _latency_conditions(model: DeliveredModel, record: RunRecord) -> list[tuple[str, str]]:
    """Where the latency was taken: as the measurement says, else as the run was configured."""
    latency = model.measurements.get("latency_ms")
    if latency is None:
        return []
    return flattened(latency.environment) or flattened(record.target)
