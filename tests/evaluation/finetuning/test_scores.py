"""Tables of scores: means, spreads, averages and comparisons by hand."""

from __future__ import annotations

import json
import math

import pytest

from flashdistill.core.measurement import Measurement
from flashdistill.evaluation.finetuning.scores import (
    Spread,
    TaskScore,
    averages,
    compare,
    score_table,
    scores_from_json,
    scores_to_json,
    summarise,
)


def score(model: str, task: str, metric: str, seed: int, value: float, split: str = "validation") -> TaskScore:
    return TaskScore(model, task, split, metric, seed, value, 0.01, 100)


def test_mean_deviation_and_interval() -> None:
    spread = Spread.of([0.80, 0.82, 0.84])
    assert spread.mean == pytest.approx(0.82)
    assert spread.deviation == pytest.approx(0.02)
    assert spread.half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)  # t(0.975, 2 degrees)
    assert spread.text("accuracy") == "82.0 ± 2.0 (3)"
    assert spread.text("matthews") == "0.820 ± 0.020 (3)"
    single = Spread.of([0.5])
    assert (single.deviation, single.half_width, single.text("f1")) == (None, None, "50.0")


def test_groups_keep_splits_and_metrics_apart() -> None:
    found = summarise(
        [
            score("a", "mnli", "accuracy", 0, 0.7, "validation_matched"),
            score("a", "mnli", "accuracy", 0, 0.6, "validation_mismatched"),
            score("a", "mnli", "accuracy", 1, 0.8, "validation_matched"),
        ]
    )
    assert [(s.split, s.spread.mean, s.spread.count) for s in found] == [
        ("validation_matched", pytest.approx(0.75), 2),
        ("validation_mismatched", 0.6, 1),
    ]
    with pytest.raises(ValueError, match="two scores of a on mnli"):
        summarise([score("a", "mnli", "accuracy", 0, 0.7)] * 2)


def test_averages_never_mix_metrics_nor_models_with_other_tasks() -> None:
    scores = [
        score("a", "sst2", "accuracy", 0, 0.9),
        score("a", "mnli", "accuracy", 0, 0.7, "validation_matched"),
        score("a", "mnli", "accuracy", 0, 0.6, "validation_mismatched"),
        score("a", "cola", "matthews", 0, 0.1),
        score("a", "qqp", "f1", 0, 0.2),
        score("a", "mrpc", "f1", 0, 0.4),
        score("a", "rte", "accuracy", 0, 0.0),
        score("a", "sst2", "accuracy", 0, 0.5, "test"),
        score("b", "sst2", "accuracy", 0, 0.8),
        score("b", "sst2", "accuracy", 1, 0.6),
        score("b", "mnli", "accuracy", 0, 0.5, "validation_matched"),
        score("b", "qqp", "f1", 0, 0.3),
    ]
    found = averages(scores)
    assert [(one.model, one.metric, one.on, one.tasks) for one in found] == [
        ("a", "accuracy", "validation", ("sst2", "mnli")),
        ("b", "accuracy", "validation", ("sst2", "mnli")),
    ]
    assert [one.value for one in found] == pytest.approx([(0.9 + 0.65) / 2, (0.7 + 0.5) / 2])


def test_models_are_compared_seed_by_seed() -> None:
    own, other = [0.81, 0.84, 0.90, 0.5], [0.80, 0.82, 0.87]
    scores = [score("own", "t", "accuracy", seed, value) for seed, value in enumerate(own)]
    scores += [score("other", "t", "accuracy", seed, value) for seed, value in enumerate(other)]
    scores += [score("own", "t", "mse", 0, 2.0), score("other", "t", "mse", 0, 1.0)]
    accuracy, error = compare(scores, "own", "other")
    assert accuracy.difference.mean == pytest.approx(0.02)
    assert accuracy.difference.count == 3
    assert accuracy.difference.half_width == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert (accuracy.better, accuracy.significant) == (3, False)
    assert (error.difference.mean, error.better, error.significant) == (1.0, 0, False)
    assert compare(scores, "own", "nobody") == []


def test_a_clear_difference_is_significant() -> None:
    scores = [score("own", "t", "accuracy", seed, 0.9 + seed / 1000) for seed in range(3)]
    scores += [score("other", "t", "accuracy", seed, 0.8) for seed in range(3)]
    assert compare(scores, "own", "other")[0].significant


def test_json_there_and_back() -> None:
    measured = Measurement("accuracy", 0.75, "fraction", None, 40)
    scores = [TaskScore.of(measured, "a", "sst2", "validation", 3)]
    assert scores_from_json(json.loads(json.dumps(scores_to_json(scores)))) == scores


def test_a_table_has_a_row_for_each_model() -> None:
    table = score_table(
        [
            score("a", "sst2", "accuracy", 0, 0.9),
            score("a", "sst2", "accuracy", 1, 0.8),
            score("a", "rte", "accuracy", 0, 0.5),
            score("b", "sst2", "accuracy", 0, 0.7),
            score("b", "rte", "accuracy", 0, 0.6),
            score("b", "cola", "matthews", 0, 0.123),
        ]
    )
    assert table.columns == [
        "model",
        "sst2 validation accuracy [%]",
        "rte validation accuracy [%]",
        "cola validation Matthews correlation",
        "average accuracy [%] of 2 tasks, validation",
    ]
    assert table.rows == [["a", "85.0 ± 7.1 (2)", "50.0", "–", "67.5"], ["b", "70.0", "60.0", "0.123", "65.0"]]
