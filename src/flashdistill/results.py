"""Collecting what a run has so far into the record that its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from flashdistill.config import as_kept
from flashdistill.core.architecture import Architecture
from flashdistill.core.files import read_json
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
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.health import hypervolume_history, search_health
from flashdistill.exploration.pareto import pareto_front
from flashdistill.exploration.space import DesignSpace
from flashdistill.exploration.winners import observed_winners, verdicts
from flashdistill.hardware.machine import fingerprint, versions
from flashdistill.workbench import Budget, Workbench

NSP_CHANCE = 0.5

MEASURED_PER_TRAINED = 4
"""A search gives up after measuring this many students for each that it may train."""


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
    probes: Sequence[Trial] = (),
    problem: SearchProblem | None = None,
) -> RunRecord:
    """The record of a run, finished or not.

    Args:
        state: the run directory's persistent state (start, finish, costs).
        failures: what went wrong in confirmation and regular distillation, one sentence each.
        probes: what was measured before the search without being trained.
        problem: what was searched for; None where nothing was.
    """
    config = bench.config
    kept = as_kept(config)
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
        search=kept["search"],
        flash=kept["flash"],
        regular=kept["regular"],
        target=kept["target"],
        further_targets=kept["further_targets"],
        trials=trials,
        probes=probes,
        front=[trial.number for trial in front],
        selected=[trial.number for trial in selected],
        verdicts=verdicts(trials, config.objectives, config.baseline),
        hypervolume=hypervolume_history(trials, config.objectives),
        health=search_health(_space(bench), problem, [*trials, *probes]) if problem else None,
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


def _space(bench: Workbench) -> DesignSpace:
    return DesignSpace(bench.config.space, bench.family)


def _space_facts(bench: Workbench) -> SpaceFacts:
    space = _space(bench)
    profile = space.profile(bench.config.constraints, bench.config.baseline)
    return SpaceFacts(
        template=bench.family.template,
        num_architectures=profile.size,
        factors=space.factors,
        num_within_size_limits=profile.within_limits if profile.size_limits else None,
    )


def _curves(bench: Workbench, trials: Sequence[Trial], delivered: Sequence[DeliveredModel]) -> list[LearningCurve]:
    budgets: dict[Budget, list[Architecture]] = {
        "flash": [trial.architecture for trial in trials],
        "regular": [model.architecture for model in delivered],
    }
    curves = [
        LearningCurve(architecture, budget, _curve_points(bench, architecture, budget))
        for budget, architectures in budgets.items()
        for architecture in architectures
    ]
    return [curve for curve in curves if curve.points]


def _curve_points(bench: Workbench, architecture: Architecture, budget: Budget) -> list[CurvePoint]:
    """The losses of a finished distillation, its steps counted over all stages; empty where there are none."""
    path = bench.work_directory(architecture, budget) / "curves.json"
    points: list[CurvePoint] = []
    before = 0
    for stage, losses in (read_json(path) if path.exists() else {}).items():
        points += [CurvePoint(before + int(step) + 1, stage, float(loss)) for step, loss in losses]
        before += int(losses[-1][0]) + 1 if losses else 0
    return points


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
    notes += [note for note in (shortfall(trials, bench), _stopped(trials), _confirmed(trials, bench)) if note]
    scores = [t.measurements["nsp_accuracy"] for t in trials if "nsp_accuracy" in t.measurements]
    if scores and all(score.value - 3 * (score.stderr or 0) < NSP_CHANCE for score in scores):
        notes.append(
            "Next-sentence accuracy is at chance level for every student: this budget is too small to learn the task."
        )
    return notes


def shortfall(trials: Sequence[Trial], bench: Workbench) -> str:
    """Why the search ended before it had trained as many students as it may; empty where it had."""
    wanted = bench.config.search.trials
    students = [trial for trial in trials if trial.number != 0]
    trained = sum(trial.state is not TrialState.INFEASIBLE for trial in students)
    if trained >= wanted:
        return ""
    if len(students) < MEASURED_PER_TRAINED * wanted:
        return (
            f"The space is exhausted after {len(students)} architectures of which {trained} satisfied the limits; "
            f"search.trials asks for {wanted}."
        )
    return (
        f"Of {len(students)} architectures measured only {trained} satisfied the limits, so the search ended before "
        f"it had trained the {wanted} that search.trials asks for; loosen the constraints, or raise search.trials."
    )


def _stopped(trials: Sequence[Trial]) -> str:
    count = sum(trial.state is TrialState.STOPPED for trial in trials)
    if not count:
        return ""
    subject = "1 student was" if count == 1 else f"{count} students were"
    return (
        f"{subject} stopped in the middle of the training, far behind one that is no slower; what is shown of it is "
        "the last score on the way, on a part of the validation text."
    )


def _confirmed(trials: Sequence[Trial], bench: Workbench) -> str:
    """How many observed winners held in the mean over further seeds; empty where none was trained again."""
    observed = observed_winners(trials, bench.config.objectives, bench.config.baseline)
    judged = [one for one in verdicts(trials, bench.config.objectives, bench.config.baseline) if one.observed]
    if not judged:
        return ""
    seeds = sorted({one.seeds for one in judged})
    runs = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"Of {len(observed)} students that beat the baseline in one training run, {len(judged)} were trained with "
        f"further seeds, and {sum(one.confirmed for one in judged)} of these beat it in the mean of {runs} runs, too."
    )


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
    pooled = ((objective.metric, trial.pooled(objective.metric)) for objective in bench.config.objectives)
    return ", ".join(f"{metric.removesuffix('_ms')} {figure(one)}" for metric, one in pooled if one is not None)


def figure(measurement: Measurement) -> str:
    """A value for one line of text: per cent, or four digits and the unit."""
    if measurement.unit == "fraction":
        return f"{measurement.value:.2%}"
    unit = "" if measurement.unit == "parameters" else f" {measurement.unit}"
    return f"{measurement.value:.4g}{unit}"
