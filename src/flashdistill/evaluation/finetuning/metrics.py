"""The metrics of downstream tasks, each with its unit, its direction and a standard error.

Values come from scikit-learn and SciPy. Where a metric is not defined, because all predictions
are the same, say, it is 0, so that a model that has learnt nothing gets a score and no warning.

Shapes: n rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flashdistill.core import registry
from flashdistill.core.errors import InputError
from flashdistill.core.measurement import Goal, Measurement
from flashdistill.core.registry import did_you_mean
from flashdistill.core.seeds import generator
from flashdistill.data.tasks.task import Task, TaskKind

Scored = tuple[float, float | None]
"""A value and its standard error over the rows; None where that is not defined."""

RESAMPLES = 500
"""Bootstrap samples behind a standard error that has no simple closed form."""

_RESAMPLED_ROWS = 10_000_000
"""Fewer samples are drawn of many rows: their standard error is small, and need not be precise."""

_RANKED_AT_ONCE = 1_000_000
"""Values ranked together: a bound on memory."""

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class TaskMetric:
    """A metric.

    Attributes:
        kind: of the tasks that it judges.
        function: ``"module:function"``, called with the predictions and what is right; gives a `Scored`.
        title: as tables write it.
    """

    title: str
    unit: str
    goal: Goal
    kind: TaskKind
    function: str

    def better(self, value: float, than: float) -> bool:
        return value > than if self.goal == "maximize" else value < than


_HERE = "flashdistill.evaluation.finetuning.metrics"
_QUESTIONS = "flashdistill.evaluation.finetuning.question_metrics"

TASK_METRICS: dict[str, TaskMetric] = {
    "accuracy": TaskMetric("accuracy", "fraction", "maximize", "classification", f"{_HERE}:accuracy"),
    "f1": TaskMetric("F1", "fraction", "maximize", "classification", f"{_HERE}:f1"),
    "matthews": TaskMetric("Matthews correlation", "coefficient", "maximize", "classification", f"{_HERE}:matthews"),
    "pearson": TaskMetric("Pearson correlation", "coefficient", "maximize", "regression", f"{_HERE}:pearson"),
    "spearman": TaskMetric("Spearman correlation", "coefficient", "maximize", "regression", f"{_HERE}:spearman"),
    "mse": TaskMetric("mean squared error", "label²", "minimize", "regression", f"{_HERE}:mse"),
    "rmse": TaskMetric("root mean squared error", "label", "minimize", "regression", f"{_HERE}:rmse"),
    "answer_f1": TaskMetric("answer F1", "fraction", "maximize", "question-answering", f"{_QUESTIONS}:mean_f1"),
    "exact_match": TaskMetric(
        "exact match", "fraction", "maximize", "question-answering", f"{_QUESTIONS}:mean_exact_match"
    ),
}
"""Every metric that a task can name. A prediction is a class index, a value, or the text of an answer
(right is then a `Question`)."""


def check_metrics(task: Task) -> None:
    """Refuse metrics that do not exist or cannot judge the task.

    Raises:
        InputError: names the task and what is allowed.
    """
    allowed = [name for name, metric in TASK_METRICS.items() if metric.kind == task.kind]
    if not task.metrics:
        raise InputError(f"the task {task.name} has no metric; choose from {', '.join(allowed)}")
    for name in task.metrics:
        if name not in allowed:
            raise InputError(
                f"the task {task.name}: {name!r} is no metric of {task.kind}{did_you_mean(name, allowed)} "
                f"(allowed: {', '.join(allowed)})"
            )
    if "f1" in task.metrics and len(task.labels) != 2:
        raise InputError(
            f"the task {task.name} has {len(task.labels)} classes, but f1 is that of the second of two; use accuracy"
        )


def measure(
    name: str, predictions: Any, right: Any, details: Mapping[str, float | int] | None = None, **environment: str | int
) -> Measurement:
    """One metric of `TASK_METRICS` over all rows, with its standard error."""
    metric = TASK_METRICS[name]
    functions = {known: row.function for known, row in TASK_METRICS.items()}
    value, stderr = registry.load(functions, name, "metric")(predictions, right)
    return Measurement(name, value, metric.unit, stderr, len(right), environment, details or {})


def accuracy(predicted: Values, labels: Values) -> Scored:
    """Share of rows whose class is right."""
    return _mean((predicted == labels).astype(np.float64))


def f1(predicted: Values, labels: Values) -> Scored:
    """F1 of class 1 among two; 0 where neither predictions nor labels have it."""
    from sklearn.metrics import f1_score

    value = float(f1_score(labels, predicted, pos_label=1, zero_division=0.0))  # type: ignore[arg-type]
    # F1 is a ratio of sums over rows, 2·TP / (predicted + true positives): its linearised variance.
    right = 2.0 * ((predicted == 1) & (labels == 1))
    positive = (predicted == 1).astype(np.float64) + (labels == 1)
    if not positive.any():
        return value, None
    return value, _standard_error((right - value * positive) / positive.mean())


def matthews(predicted: Values, labels: Values) -> Scored:
    """Matthews correlation, of any number of classes (Gorodkin 2004); 0 for predictions of one class."""
    from sklearn.metrics import matthews_corrcoef

    classes = np.union1d(predicted, labels)
    if len(classes) == 1:
        return 0.0, None
    one_hot = [(values[:, None] == classes).astype(np.float64) for values in (predicted, labels)]
    return float(matthews_corrcoef(labels, predicted)), _correlation_error(*one_hot)


def pearson(predicted: Values, labels: Values) -> Scored:
    """Pearson correlation; 0 where either side is constant."""
    from scipy.stats import pearsonr

    if _constant(predicted) or _constant(labels):
        return 0.0, None
    predicted, labels = predicted.astype(np.float64), labels.astype(np.float64)
    result: Any = pearsonr(predicted, labels)
    return float(result.statistic), _correlation_error(predicted[:, None], labels[:, None])


def spearman(predicted: Values, labels: Values) -> Scored:
    """Pearson correlation of the ranks; 0 where either side is constant. Bootstrapped standard error."""
    from scipy.stats import spearmanr

    if _constant(predicted) or _constant(labels):
        return 0.0, None
    result: Any = spearmanr(predicted, labels)
    return float(result.statistic), _bootstrapped_rank_error(predicted, labels)


def _bootstrapped_rank_error(predicted: Values, labels: Values) -> float:
    from scipy.stats import rankdata

    n = len(labels)
    random = generator("bootstrap", n)
    count = max(50, min(RESAMPLES, _RESAMPLED_ROWS // n))
    found = np.zeros(count)
    at_once = max(1, _RANKED_AT_ONCE // n)
    for begin in range(0, count, at_once):
        rows = random.integers(0, n, (min(at_once, count - begin), n))
        x, y = (rankdata(values[rows], axis=1) for values in (predicted, labels))
        x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
        scale = np.sqrt((x * x).sum(1) * (y * y).sum(1))
        # A sample of equal rows correlates with nothing.
        found[begin : begin + len(rows)] = (x * y).sum(1) / np.where(scale > 0, scale, 1.0)
    return float(found.std(ddof=1))


def mse(predicted: Values, labels: Values) -> Scored:
    """Mean squared error."""
    return _mean((predicted.astype(np.float64) - labels) ** 2)


def rmse(predicted: Values, labels: Values) -> Scored:
    """Root of the mean squared error."""
    square, stderr = mse(predicted, labels)
    root = math.sqrt(square)
    return root, None if stderr is None or root == 0 else stderr / (2 * root)


def _mean(values: Values) -> Scored:
    return float(values.mean()), _standard_error(values)


def _standard_error(influence: Values) -> float | None:
    """Of a mean, or of what is a mean to first order."""
    n = len(influence)
    return float(influence.std(ddof=1) / math.sqrt(n)) if n > 1 else None


def _constant(values: Values) -> bool:
    # A spread that rounding alone explains is none.
    values = values.astype(np.float64)
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def _correlation_error(x: Values, y: Values) -> float | None:
    """Standard error of Σ x·y / √(Σ x·x Σ y·y), centred rows [n, C], by its influence function."""
    x, y = x - x.mean(0), y - y.mean(0)
    xy, xx, yy = (x * y).sum(-1), (x * x).sum(-1), (y * y).sum(-1)
    scale = math.sqrt(xx.mean() * yy.mean())
    if scale == 0:
        return None
    r = xy.mean() / scale
    return _standard_error(xy / scale - r / 2 * (xx / xx.mean() + yy / yy.mean()))
