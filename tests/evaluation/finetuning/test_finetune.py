"""Fine-tuning end to end on tasks that a tiny model can learn: it learns, repeats, and resumes exactly."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flashdistill.core.errors import DivergedError, InputError
from flashdistill.core.progress import Progress
from flashdistill.data.tasks.task import Sentences, Task
from flashdistill.evaluation.finetuning import finetune as module
from flashdistill.evaluation.finetuning.finetune import Finetuned, check_together, finetune
from flashdistill.evaluation.finetuning.heads import load_finetuned
from flashdistill.evaluation.finetuning.sentence_recipe import ClassificationRecipe
from flashdistill.evaluation.finetuning.sources import locate_source
from flashdistill.training.compute import Compute
from tests.evaluation.finetuning.tiny_task import SETTINGS, deliver_student, polarity, save_bert, sentences, strength
from tests.faults_catalogue import fault
from tests.progress_doubles import KilledError, Killer

STEPS = 9  # two epochs of 72 rows in batches of 16; the first epoch ends with step 5


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def checkpoint_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS_PER_PARAMETER", 0.0)


def tune(model: Path, work: Path, progress: Progress | None = None, score: Any = "last", **changes: Any) -> Finetuned:
    settings = SETTINGS.model_copy(update=changes)
    return finetune(model, polarity(), settings, 0, work, progress=progress, score=score)


def equal(first: Finetuned, second: Finetuned) -> bool:
    own, other = first.model.state_dict(), second.model.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_a_model_learns_and_reads_back_with_the_same_predictions(tmp_path: Path, bert: Path) -> None:
    tuned = tune(bert, tmp_path / "work", epochs=4)
    assert tuned.scores["validation"]["accuracy"].value >= 0.9
    assert tuned.scores["test"]["accuracy"].value >= 0.8
    assert tuned.scores["test"]["accuracy"].samples == 20
    assert set(tuned.scores["validation"]) == {"accuracy", "matthews"}
    assert tuned.curve.points[-1][1] < tuned.curve.points[0][1] / 2
    assert [epoch.epoch for epoch in tuned.epochs] == [1, 2, 3, 4]
    assert tuned.kept is tuned.epochs[-1]
    assert tuned.steps == 18
    tuned.save(tmp_path / "model")
    model, _ = load_finetuned(tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tuned.model.parameters(), strict=True))
    assert model.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
def test_a_delivered_student_learns(tmp_path: Path, template: str) -> None:
    student = deliver_student(tmp_path / "student", template)
    task = dataclasses.replace(polarity(True), train=sentences(240, 0, pairs=True))
    tuned = finetune(student, task, SETTINGS.model_copy(update={"epochs": 6}), 0, tmp_path / "work")
    assert tuned.scores["validation"]["accuracy"].value >= 0.9


def test_a_regression_is_learnt(tmp_path: Path, bert: Path) -> None:
    tuned = finetune(bert, strength(), SETTINGS.model_copy(update={"epochs": 10, "dropout": 0.0}), 0, tmp_path)
    assert tuned.scores["validation"]["pearson"].value > 0.85
    assert tuned.scores["validation"]["mse"].value < 2  # the values' own variance is above 4


def test_the_seed_decides_and_nothing_else(tmp_path: Path, bert: Path) -> None:
    first = tune(bert, tmp_path / "1")
    torch.rand(7)
    assert equal(tune(bert, tmp_path / "2"), first)
    other = finetune(bert, polarity(), SETTINGS, 1, tmp_path / "3")
    assert not equal(other, first)


@pytest.mark.parametrize("at", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("score", ["last", "best"])
@pytest.mark.usefixtures("checkpoint_each_step")
@fault(1, "break of a fine-tuning", "the same scores")
def test_a_killed_fine_tuning_goes_on_exactly(tmp_path: Path, bert: Path, at: int, score: Any) -> None:
    expected = tune(bert, tmp_path / "whole", score=score)
    with pytest.raises(KilledError):
        tune(bert, tmp_path / "killed", Killer(at), score)
    resumed = tune(bert, tmp_path / "killed", score=score)
    assert equal(resumed, expected)
    assert resumed.epochs == expected.epochs
    assert resumed.curve.points == expected.curve.points
    assert resumed.scores == expected.scores


@pytest.mark.usefixtures("checkpoint_each_step")
@fault(1, "break of a fine-tuning's scoring", "scored later")
def test_an_epoch_whose_scoring_was_killed_is_scored_later(
    tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise KilledError

    expected = tune(bert, tmp_path / "whole", score="best")
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationRecipe, "scores", killed)
        with pytest.raises(KilledError):
            tune(bert, tmp_path / "killed", score="best")
    resumed = tune(bert, tmp_path / "killed", score="best")
    assert resumed.epochs == expected.epochs
    assert equal(resumed, expected)


@pytest.mark.usefixtures("checkpoint_each_step")
def test_what_other_settings_left_is_not_taken_up(tmp_path: Path, bert: Path) -> None:
    with pytest.raises(KilledError):
        tune(bert, tmp_path / "work", Killer(4))
    resumed = tune(bert, tmp_path / "work", learning_rate=1e-3)
    assert equal(resumed, tune(bert, tmp_path / "fresh", learning_rate=1e-3))


def test_the_best_epoch_is_kept_when_it_is_asked_for(
    tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dataclasses.replace(strength(), metrics=("mse",))
    # A rate that is far too high at first: the error falls and rises.
    settings = SETTINGS.model_copy(update={"epochs": 4, "learning_rate": 0.02, "warmup_fraction": 0.0})
    last, best = (
        finetune(bert, task, settings, 0, tmp_path / name, score=name)
        for name in ("last", "best")  # type: ignore[arg-type]
    )
    values = [epoch.value for epoch in best.epochs]
    assert [epoch.value for epoch in last.epochs] == values
    assert best.kept.value == min(values)
    assert best.scores["validation"]["mse"].value == min(values)
    assert last.scores["validation"]["mse"].value == values[-1]


def test_gradients_add_up_over_shares(tmp_path: Path, bert: Path) -> None:
    settings = SETTINGS.model_copy(update={"dropout": 0.0, "epochs": 0.4})
    whole, shared = (
        finetune(bert, polarity(), settings, 0, tmp_path / str(micro), Compute(micro_batch_size=micro))
        for micro in (None, 3)
    )
    for own, other in zip(whole.model.parameters(), shared.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=2e-4)
    assert whole.steps == 2
    assert [epoch.epoch for epoch in whole.epochs] == [0.4]


def test_biases_and_norms_are_not_decayed(tmp_path: Path, bert: Path) -> None:
    """With a rate at which only the decay can act, matrices shrink and vectors do not."""
    from flashdistill.training.optimizers import build_optimizer

    model = tune(bert, tmp_path, epochs=0.1).model
    decayed = {
        id(parameter)
        for group in build_optimizer("adamw", model.parameters(), 1e-3, 0.1).param_groups
        for parameter in group["params"]
        if group["weight_decay"] > 0
    }
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) is not (name.endswith("bias") or "LayerNorm" in name), name


@fault(6, "loss of NaN in a fine-tuning", "told with its step")
def test_divergence_is_told_with_its_step(tmp_path: Path, bert: Path) -> None:
    task = strength()
    assert isinstance(task.train, Sentences)
    assert task.train.labels is not None
    wild = dataclasses.replace(task.train, labels=np.full_like(task.train.labels, 1e30))
    with pytest.raises(DivergedError, match="diverged: the loss is inf at step 0 of fine-tuning"):
        finetune(bert, dataclasses.replace(task, train=wild), SETTINGS, 0, tmp_path)


def broken(**changes: Any) -> Task:
    return dataclasses.replace(polarity(), **changes)


def unlabelled() -> Sentences:
    return Sentences(["a"], None, None)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (broken(evaluation={}), "has no validation rows"),
        (broken(labels=("bad",)), "has fewer than two classes"),
        (broken(evaluation={"validation": unlabelled()}), "the rows of validation have no labels"),
        (broken(train=Sentences([], None, np.array([]))), "has no rows in train"),
        (broken(train=Sentences(["a"], None, np.array([2]))), "train has labels that are none of its 2 classes"),
        (broken(metrics=("pearson",)), "'pearson' is no metric of classification"),
        (broken(kind="question-answering", metrics=("exact_match",)), "the rows of train do not suit"),
        (
            dataclasses.replace(strength(), train=Sentences(["a"], None, np.array([math.nan]))),
            "train has values that are not finite",
        ),
    ],
)
def test_tasks_that_cannot_be_learnt_are_refused(bert: Path, task: Task, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_together(locate_source(bert), task, SETTINGS)


def test_a_test_split_without_labels_is_not_scored(tmp_path: Path, bert: Path) -> None:
    tuned = finetune(bert, broken(test=unlabelled()), SETTINGS.model_copy(update={"epochs": 0.1}), 0, tmp_path)
    assert set(tuned.scores) == {"validation"}
