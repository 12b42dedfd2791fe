"""Scores of fine-tuned models over seeds and tasks: means with spread, averages, and comparisons.

Intervals are two-sided 95 % t-intervals over seeds: they say what another seed would give, not
what other rows would; for that a score has its standard error.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flashdistill.core.measurement import Measurement
from flashdistill.evaluation.finetuning.metrics import TASK_METRICS

CONFIDENCE = 0.95

TEST = "test"


@dataclass(frozen=True)
class TaskScore:
    """One metric of one fine-tuned model on one split.

    Attributes:
        stderr: standard error over the rows; None where it is not defined.
        samples: rows.
    """

    model: str
    task: str
    split: str
    metric: str
    seed: int
    value: float
    stderr: float | None
    samples: int

    @classmethod
    def of(cls, measurement: Measurement, model: str, task: str, split: str, seed: int) -> TaskScore:
        return cls(
            model, task, split, measurement.name, seed, measurement.value, measurement.stderr, measurement.samples
        )


def scores_to_json(scores: Iterable[TaskScore]) -> list[dict[str, Any]]:
    """One object for each score; `scores_from_json` reads them back."""
    return [asdict(score) for score in scores]


def scores_from_json(entries: Iterable[dict[str, Any]]) -> list[TaskScore]:
    return [TaskScore(**entry) for entry in entries]


@dataclass(frozen=True)
class Spread:
    """A mean over ``count`` seeds.

    Attributes:
        deviation: standard deviation of one seed; None for a single one.
        half_width: of the 95 % interval of the mean; None for a single seed.
    """

    mean: float
    deviation: float | None
    half_width: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        mean, count = float(np.mean(values)), len(values)
        if count < 2:
            return cls(mean, None, None, count)
        deviation = float(np.std(values, ddof=1))
        return cls(mean, deviation, _quantile(count - 1) * deviation / math.sqrt(count), count)

    def text(self, metric: str) -> str:
        """``91.3 ± 0.4 (3)``: mean, standard deviation and number of seeds; fractions in percent."""
        percent = TASK_METRICS[metric].unit == "fraction"
        factor, digits = (100.0, 1) if percent else (1.0, 3)
        spread = "" if self.deviation is None else f" ± {factor * self.deviation:.{digits}f} ({self.count})"
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Summary:
    """One metric of a model on a task's split, over seeds."""

    model: str
    task: str
    split: str
    metric: str
    spread: Spread


def summarise(scores: Iterable[TaskScore]) -> list[Summary]:
    """Mean and spread over seeds of every model, task, split and metric, in the order of their first score.

    Raises:
        ValueError: a seed occurs twice; a mean would count it double.
    """
    groups: dict[tuple[str, str, str, str], dict[int, float]] = defaultdict(dict)
    for score in scores:
        seeds = groups[score.model, score.task, score.split, score.metric]
        if score.seed in seeds:
            raise ValueError(f"two scores of {score.model} on {score.task}, {score.split}, seed {score.seed}")
        seeds[score.seed] = score.value
    return [Summary(*key, Spread.of(list(seeds.values()))) for key, seeds in groups.items()]


@dataclass(frozen=True)
class Average:
    """A model's mean over tasks of one and the same metric.

    Attributes:
        on: ``test``, or ``validation`` for all other splits.
        tasks: what it is over: every task that has the metric for all models.
        value: a task's splits are averaged first, and its seeds before them.
    """

    model: str
    metric: str
    on: str
    tasks: tuple[str, ...]
    value: float


def averages(scores: Iterable[TaskScore]) -> list[Average]:
    """Averages over the tasks that all models share, apart for each metric: F1, accuracy and a
    correlation are different scales, and their mean would mean nothing. Fewer than two tasks
    have no average."""
    found: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    models: dict[str, None] = {}
    for summary in summarise(scores):
        on = TEST if summary.split == TEST else "validation"
        found[summary.metric, on][summary.model][summary.task].append(summary.spread.mean)
        models[summary.model] = None
    result: list[Average] = []
    for (metric, on), by_model in found.items():
        shared = [task for task in next(iter(by_model.values())) if all(task in by_model[name] for name in models)]
        if len(shared) < 2:
            continue
        for name in models:
            value = float(np.mean([np.mean(by_model[name][task]) for task in shared]))
            result.append(Average(name, metric, on, tuple(shared), value))
    return result


@dataclass(frozen=True)
class Comparison:
    """How much better ``model`` is than ``reference``, seed by seed.

    Attributes:
        difference: model minus reference over the seeds that both have.
        better: of these seeds, those in which the model is better, by the metric's direction.
    """

    model: str
    reference: str
    task: str
    split: str
    metric: str
    difference: Spread
    better: int

    @property
    def significant(self) -> bool:
        """Whether the 95 % interval of the mean difference excludes 0."""
        return self.difference.half_width is not None and abs(self.difference.mean) > self.difference.half_width


def compare(scores: Iterable[TaskScore], model: str, reference: str) -> list[Comparison]:
    """Paired comparisons wherever two models share a task, split and metric and at least one seed.

    Fine-tunings of one seed see the same rows in the same order, so differences vary less than scores.
    """
    values: dict[tuple[str, str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for score in scores:
        values[score.task, score.split, score.metric][score.model][score.seed] = score.value
    result: list[Comparison] = []
    for key, by_model in values.items():
        own, other = by_model[model], by_model[reference]
        shared = sorted(own.keys() & other.keys())
        if shared:
            better = sum(TASK_METRICS[key[2]].better(own[seed], other[seed]) for seed in shared)
            spread = Spread.of([own[seed] - other[seed] for seed in shared])
            result.append(Comparison(model, reference, *key, spread, better))
    return result


@dataclass(frozen=True)
class ScoreTable:
    """Cells ready to be shown: a row for each model, a column for each task, split and metric."""

    columns: list[str]
    rows: list[list[str]]


def score_table(scores: Iterable[TaskScore]) -> ScoreTable:
    """Models against tasks, with the averages in the last columns; ``–`` where a score is missing."""
    scores = list(scores)
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    columns: dict[str, None] = {}
    for summary in summarise(scores):
        column = f"{summary.task} {summary.split} {_titled(summary.metric)}"
        columns[column] = None
        cells[summary.model][column] = summary.spread.text(summary.metric)
    for average in averages(scores):
        column = f"average {_titled(average.metric)} of {len(average.tasks)} tasks, {average.on}"
        columns[column] = None
        cells[average.model][column] = Spread.of([average.value]).text(average.metric)
    rows = [[model, *(own.get(column, "–") for column in columns)] for model, own in cells.items()]
    return ScoreTable(["model", *columns], rows)


def _titled(metric: str) -> str:
    row = TASK_METRICS[metric]
    return f"{row.title} [%]" if row.unit == "fraction" else row.title


def _quantile(degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees))
