"""Collecting what a run has so far into the record that its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from flashdistill.candidate import read_curves
from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial, TrialState
from flashdistill.data.readers.base import open_reader
from flashdistill.delivery.record import (
    CorpusFacts,
    CurvePoint,
    DeliveredModel,
    LearningCurve,
    RunRecord,
    SpaceFacts,
    TeacherFacts,
)
from flashdistill.exploration.pareto import hypervolume, oriented_values, pareto_front
from flashdistill.exploration.space import DesignSpace
from flashdistill.hardware.machine import fingerprint, versions
from flashdistill.workbench import Workbench

NSP_CHANCE = 0.5


def environment() -> dict[str, str | int | float | bool | None]:
    """The machine and the versions of all that takes part."""
    return {**fingerprint(), **versions()}


def version_lines() -> dict[str, str]:
    """Versions by name, for the head of the resolved configuration."""
    return {"flashdistill": version("flashdistill"), **versions()}


def collect(
    bench: Workbench,
    trials: Sequence[Trial],
    selected: Sequence[Trial],
    delivered: Sequence[DeliveredModel],
    teacher_scores: Mapping[str, Measurement],
    state: Mapping[str, object],
    failures: Sequence[str] = (),
) -> RunRecord:
    """The record of a run, finished or not.

    Args:
        state: the run directory's persistent state (start, finish, costs).
        failures: what went wrong in regular distillation, one sentence each.
    """
    config = bench.config
    front = pareto_front(trials, config.objectives)
    costs = state.get("costs", {})
    return RunRecord(
        name=config.name,
        started=str(state.get("started", "")),
        finished=str(state.get("finished", "")),
        seed=config.seed,
        version=version("flashdistill"),
        baseline=config.baseline,
        objectives=config.objectives,
        environment=environment(),
        teacher=_teacher_facts(bench, teacher_scores),
        corpus=_corpus_facts(bench),
        space=_space_facts(bench),
        constraints=[str(constraint) for constraint in config.constraints],
        search=config.search.model_dump(mode="json"),
        flash=config.flash.model_dump(mode="json"),
        regular=config.regular.model_dump(mode="json"),
        target=config.target.model_dump(mode="json"),
        further_targets={name: target.model_dump(mode="json") for name, target in config.further_targets.items()},
        trials=trials,
        front=[trial.number for trial in front],
        selected=[trial.number for trial in selected],
        hypervolume=_hypervolume_history(trials, bench),
        delivered=delivered,
        curves=_curves(bench, trials, delivered),
        costs={str(name): float(seconds) for name, seconds in dict(costs).items()},  # type: ignore[call-overload]
        notes=[*_notes(bench, trials), *failures],
    )


def _teacher_facts(bench: Workbench, scores: Mapping[str, Measurement]) -> TeacherFacts:
    teacher, report = bench.prepared.teacher, bench.prepared.report
    shape = teacher.shape
    preparation = report.preparation + (f", {report.steps:,} steps" if report.steps else "")
    return TeacherFacts(
        name=report.name,
        num_parameters=sum(parameter.numel() for parameter in teacher.model.parameters()),
        num_layers=shape.num_blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        vocab_size=shape.vocab_size,
        source_vocab_size=report.source_vocab_size,
        preparation=preparation,
        measurements=scores,
        seconds=report.seconds,
        source_sha256=report.source_sha256,
        license=report.license,
    )


def _corpus_facts(bench: Workbench) -> CorpusFacts:
    corpus, settings = bench.prepared.corpus, bench.config.corpus
    tokens = [_tokens(corpus.sentence_offsets, ranges) for ranges in (corpus.train, corpus.validation)]
    return CorpusFacts(
        source=open_reader(settings).describe(),
        num_documents=corpus.statistics.documents,
        train_tokens=tokens[0],
        validation_tokens=tokens[1],
        train_sequences=bench.pretraining_data.train_sequences,
        validation_sequences=bench.pretraining_data.validation_sequences,
        max_length=settings.max_length,
    )


def _tokens(sentence_offsets: np.ndarray, ranges: np.ndarray) -> int:
    """Tokens in documents given as [documents, 2] ranges of sentences."""
    return int((sentence_offsets[ranges[:, 1]] - sentence_offsets[ranges[:, 0]]).sum())


def _space_facts(bench: Workbench) -> SpaceFacts:
    space = DesignSpace(bench.config.space, bench.family)
    profile = space.profile(bench.config.constraints, bench.config.baseline)
    return SpaceFacts(
        template=bench.family.template,
        num_architectures=profile.size,
        factors=space.factors,
        num_within_size_limits=profile.within_limits if profile.size_limits else None,
    )


def _hypervolume_history(trials: Sequence[Trial], bench: Workbench) -> list[float | None]:
    """The hypervolume after each trial, relative to the final one, above the worst values seen."""
    objectives = bench.config.objectives
    points = [oriented_values(t, objectives) if t.state is TrialState.COMPLETE else None for t in trials]
    known = [point for point in points if point is not None]
    if len(objectives) < 2 or not known:
        return []
    array = np.array(known)
    low, high = array.min(axis=0), array.max(axis=0)
    floor = low - 0.1 * np.where(high > low, high - low, 1.0)
    final = hypervolume(array, floor)
    history: list[float | None] = []
    for count in range(1, len(points) + 1):
        so_far = [point for point in points[:count] if point is not None]
        history.append(hypervolume(np.array(so_far), floor) / final if so_far else None)
    return history


def _curves(bench: Workbench, trials: Sequence[Trial], delivered: Sequence[DeliveredModel]) -> list[LearningCurve]:
    found = []
    for budget, architectures in (
        ("flash", [trial.architecture for trial in trials]),
        ("regular", [model.architecture for model in delivered]),
    ):
        for architecture in architectures:
            points, before = [], 0
            for stage, curve in read_curves(bench, architecture, budget).items():
                points += [CurvePoint(before + step + 1, stage, loss) for step, loss in curve.points]
                before += curve.points[-1][0] + 1 if curve.points else 0
            if points:
                found.append(LearningCurve(architecture, budget, points))  # type: ignore[arg-type]
    return found


def _notes(bench: Workbench, trials: Sequence[Trial]) -> list[str]:
    """What a reader must know to judge the figures."""
    notes = []
    prepared = bench.prepared.report
    if prepared.preparation:
        notes.append(f"The teacher {prepared.name} was prepared by the tool: {prepared.preparation}.")
    measured = [trial for trial in trials if "latency_ms" in trial.measurements]
    noisy = [str(trial.architecture) for trial in measured if _noisy(trial)]
    if noisy:
        which = ", ".join(noisy) if len(noisy) <= 3 else f"{len(noisy)} of {len(measured)} architectures"
        notes.append(
            f"The latency of {which} is known less precisely than target.measurement.tolerance asks for: the budget "
            "of seconds was spent first. The intervals say how precisely."
        )
    scores = [t.measurements["nsp_accuracy"] for t in trials if "nsp_accuracy" in t.measurements]
    if scores and all(score.value - 3 * (score.stderr or 0) < NSP_CHANCE for score in scores):
        notes.append(
            "Next-sentence accuracy is at chance level for every student: this budget is too small to learn the task."
        )
    return notes


def _noisy(trial: Trial) -> bool:
    return bool(trial.measurements["latency_ms"].details.get("noisy"))


def summary(trials: Sequence[Trial], bench: Workbench, limit: int = 4) -> str:
    """The front in one line, for the terminal: architecture and its objectives' values."""
    front = pareto_front(trials, bench.config.objectives)
    if not front:
        return "no complete trial yet"
    shown = ", ".join(f"{trial.architecture} ({_figures(trial, bench)})" for trial in front[:limit])
    return f"front: {shown}" + (f" and {len(front) - limit} more" if len(front) > limit else "")


def describe(trial: Trial, bench: Workbench) -> str:
    """A finished trial in one line."""
    if trial.state is TrialState.COMPLETE:
        return f"trial {trial.number}: {trial.architecture}: {_figures(trial, bench)}"
    return f"trial {trial.number}: {trial.architecture}: {trial.state}: {trial.reason}"


def _figures(trial: Trial, bench: Workbench) -> str:
    return ", ".join(_figure(objective.metric, trial) for objective in bench.config.objectives)


def _figure(metric: str, trial: Trial) -> str:
    measurement = trial.measurements[metric]
    if measurement.unit == "fraction":
        return f"{metric} {measurement.value:.2%}"
    unit = "" if measurement.unit == "parameters" else f" {measurement.unit}"
    return f"{metric.removesuffix('_ms')} {measurement.value:.4g}{unit}"
