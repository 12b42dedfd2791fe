"""Metrics against hand computation, their errors against the bootstrap, and what is not defined."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr

from flashdistill.core.errors import InputError
from flashdistill.evaluation.finetuning.metrics import (
    TASK_METRICS,
    Scored,
    accuracy,
    check_metrics,
    f1,
    matthews,
    measure,
    mse,
    pearson,
    rmse,
    spearman,
)
from tests.evaluation.finetuning.tiny_task import polarity, strength

# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
PREDICTED = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
LABELS = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])


def test_classification_by_hand() -> None:
    assert accuracy(PREDICTED, LABELS)[0] == pytest.approx(0.7)
    assert accuracy(PREDICTED, LABELS)[1] == pytest.approx(math.sqrt(0.7 * 0.3 / 9))
    assert f1(PREDICTED, LABELS)[0] == pytest.approx(6 / 9)
    # (TP·TN − FP·FN) / √((TP+FP)(TP+FN)(TN+FP)(TN+FN))
    assert matthews(PREDICTED, LABELS)[0] == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))


def test_regression_by_hand() -> None:
    predicted, labels = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0], dtype=np.float32)
    assert mse(predicted, labels)[0] == pytest.approx(5 / 3)
    assert rmse(predicted, labels)[0] == pytest.approx(math.sqrt(5 / 3))
    # Deviations (−4, −1, 5)/3 and (−1, 1, 0).
    assert pearson(predicted, labels)[0] == pytest.approx((4 - 1) / 3 / math.sqrt(42 / 9 * 2))
    assert spearman(predicted, labels)[0] == pytest.approx(0.5)
    assert spearman(np.exp(predicted), labels)[0] == pytest.approx(0.5)


def test_several_classes() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    assert matthews(labels, labels)[0] == pytest.approx(1)
    assert abs(matthews(np.array([1, 2, 0, 2, 0, 1]), labels)[0] + 0.5) < 1e-9  # never right, all classes equally often


@pytest.mark.parametrize("metric", [accuracy, f1, matthews])
@pytest.mark.filterwarnings("error")
def test_predictions_of_one_class_have_a_value_and_no_warning(metric: Callable[..., Scored]) -> None:
    labels = np.array([0, 0, 1, 0])
    value, stderr = metric(np.zeros(4, dtype=np.int64), labels)
    assert value == (0.75 if metric is accuracy else 0.0)
    assert stderr is None or math.isfinite(stderr)
    assert f1(np.zeros(3), np.zeros(3)) == (0.0, None)
    assert matthews(np.zeros(3, dtype=int), np.zeros(3, dtype=int)) == (0.0, None)


@pytest.mark.parametrize("metric", [pearson, spearman])
@pytest.mark.filterwarnings("error")
def test_a_constant_correlates_with_nothing(metric: Callable[..., Scored]) -> None:
    labels = np.array([0.5, 1.5, 3.0], dtype=np.float32)
    assert metric(np.full(3, 2.7, dtype=np.float32), labels) == (0.0, None)
    assert metric(labels, np.full(3, 1e6)) == (0.0, None)


@pytest.mark.parametrize("metric", [accuracy, f1, matthews, pearson, spearman, mse, rmse])
def test_standard_errors_agree_with_the_bootstrap(metric: Callable[..., Scored]) -> None:
    random = np.random.default_rng(0)
    labels = random.normal(size=400)
    predicted = 0.7 * labels + 0.6 * random.normal(size=400)
    if metric in (accuracy, f1, matthews):
        labels, predicted = (labels > 0.5).astype(int), (predicted > 0.3).astype(int)
    samples = [random.integers(0, 400, 400) for _ in range(150)]
    # Its own error is bootstrapped, too, which need not be done for each sample.
    value: Callable[..., float] = (
        (lambda *both: spearmanr(*both).statistic) if metric is spearman else (lambda *both: metric(*both)[0])
    )
    expected = np.std([value(predicted[rows], labels[rows]) for rows in samples])
    assert metric(predicted, labels)[1] == pytest.approx(expected, rel=0.2)


def test_a_measurement_knows_its_unit_and_its_rows() -> None:
    found = measure("f1", PREDICTED, LABELS, split="validation")
    assert (found.name, found.unit, found.samples, found.environment) == ("f1", "fraction", 10, {"split": "validation"})
    assert found.stderr is not None


def test_every_metric_is_there() -> None:
    for name, metric in TASK_METRICS.items():
        assert metric.better(2, 1) is (metric.goal == "maximize"), name


def test_metrics_must_suit_the_task() -> None:
    check_metrics(polarity())
    with pytest.raises(InputError, match="the task strength: 'acuracy' is no metric of regression .allowed: pearson"):
        check_metrics(dataclasses.replace(strength(), metrics=("acuracy",)))
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        check_metrics(dataclasses.replace(polarity(), metrics=("acuracy",)))
    with pytest.raises(InputError, match="has 3 classes, but f1 is that of the second of two"):
        check_metrics(dataclasses.replace(polarity(), metrics=("f1",), labels=("a", "b", "c")))
    with pytest.raises(InputError, match="has no metric; choose from accuracy, f1, matthews"):
        check_metrics(dataclasses.replace(polarity(), metrics=()))
