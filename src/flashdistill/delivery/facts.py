"""Names and values for the descriptive sections of the report and the model card."""

from __future__ import annotations

from datetime import datetime

from flashdistill.core.trial import TrialState
from flashdistill.delivery.formatting import (
    SPACE,
    capitalized,
    flattened,
    format_count,
    format_measurement,
    format_moment,
    format_seconds,
    format_value,
    metric_name,
)
from flashdistill.delivery.record import RunRecord
from flashdistill.delivery.winners import winners

Facts = list[tuple[str, str]]


def glance(record: RunRecord) -> Facts:
    """The handful of figures for the head of the report."""
    facts: Facts = []
    if record.students:
        evaluated = sum(trial.number != 0 for trial in record.evaluated)
        facts.append(("students evaluated", f"{evaluated} of {len(record.students)}"))
    if record.front and len(record.objectives) > 1:
        facts.append(("on the Pareto front", str(len(record.front))))
    again = [winner for winner in winners(record) if winner.observed and winner.verdict]
    if again:
        facts.append(("winners confirmed", f"{sum(one.holds for one in again)} of {len(again)} trained again"))
    if students := [model for model in record.delivered if not model.is_baseline]:
        facts.append(("delivered", str(len(students))))
    if record.teacher and (score := record.teacher.measurements.get("mlm_accuracy")):
        facts.append(("teacher’s accuracy", format_value("mlm_accuracy", score.value)))
    if (spent := time_spent(record)) is not None:
        facts.append(("time spent", format_seconds(spent)))
    return facts


def time_spent(record: RunRecord) -> float | None:
    """Seconds of work; the time between start and end only where no costs were kept.

    The two differ where a run was interrupted and resumed.
    """
    if record.costs:
        return sum(record.costs.values())
    try:
        return (datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)).total_seconds()
    except (ValueError, TypeError):
        return None


def run_facts(record: RunRecord) -> Facts:
    """When and with what the run was made, and what was asked of it."""
    objectives = [f"{objective.goal} {metric_name(objective.metric)}" for objective in record.objectives]
    unfinished = any(trial.state is TrialState.PENDING for trial in record.trials) or not record.finished
    return _present(
        ("objectives", ", ".join(objectives)),
        ("constraints", ", ".join(record.constraints) or "none"),
        ("baseline", str(record.baseline)),
        ("started", format_moment(record.started)),
        ("finished", "not finished" if unfinished and not record.finished else format_moment(record.finished)),
        ("seed", str(record.seed)),
        ("FlashDistill", record.version),
    )


def teacher_facts(record: RunRecord) -> Facts:
    teacher = record.teacher
    if teacher is None:
        return []
    vocabulary = format_count(teacher.vocab_size)
    if teacher.source_vocab_size is not None and teacher.source_vocab_size != teacher.vocab_size:
        vocabulary = f"{vocabulary}, reduced from {format_count(teacher.source_vocab_size)}"
    return _present(
        ("model", teacher.name),
        ("parameters", format_value("num_parameters", teacher.num_parameters)),
        ("shape", f"{teacher.num_layers} layers, width {teacher.hidden_size}, {teacher.num_heads} heads"),
        ("vocabulary", vocabulary),
        ("preparation", teacher.preparation or "used as it came"),
        *((capitalized(metric_name(name)), format_measurement(item)) for name, item in teacher.measurements.items()),
        ("time of preparation", format_seconds(teacher.seconds) if teacher.seconds is not None else ""),
        ("licence", teacher.license),
        ("SHA-256 of the source", teacher.source_sha256),
    )


def corpus_facts(record: RunRecord) -> Facts:
    corpus = record.corpus
    if corpus is None:
        return []
    return [
        ("source", corpus.source),
        ("documents", format_count(corpus.num_documents)),
        ("training", f"{format_count(corpus.train_tokens)} tokens, {format_count(corpus.train_sequences)} sequences"),
        (
            "validation",
            f"{format_count(corpus.validation_tokens)} tokens, {format_count(corpus.validation_sequences)} sequences",
        ),
        ("longest sequence", f"{corpus.max_length}{SPACE}tokens"),
    ]


def space_facts(record: RunRecord) -> Facts:
    space = record.space
    if space is None:
        return []
    within = space.num_within_size_limits
    return _present(
        ("template", space.template),
        ("architectures", format_count(space.num_architectures)),
        ("within the size limits", format_count(within) if within is not None else ""),
        *((factor.replace("_", " "), ", ".join(map(str, choices))) for factor, choices in space.factors.items()),
    )


def sections(record: RunRecord) -> list[tuple[str, Facts]]:
    """The descriptive sections that have contents, in the order of the report."""
    every = [
        ("Run", run_facts(record)),
        ("Teacher", teacher_facts(record)),
        ("Corpus", corpus_facts(record)),
        ("Design space", space_facts(record)),
        ("Search", flattened(record.search)),
        ("Distillation in the search", flattened(record.flash)),
        ("Full distillation", flattened(record.regular)),
        ("Serving target", flattened(record.target)),
        *((f"Serving target {name}", flattened(target)) for name, target in record.further_targets.items()),
        ("Environment", flattened(record.environment)),
    ]
    return [(title, facts) for title, facts in every if facts]


def _present(*facts: tuple[str, str]) -> Facts:
    return [(name, value) for name, value in facts if value]
