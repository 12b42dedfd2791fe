"""A fine-tuned teacher: whose labels must fit, whose tokens need not, and which is asked once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig

from flashdistill.core.errors import InputError
from flashdistill.core.progress import Silent
from flashdistill.evaluation.finetuning.finetune import finetune
from flashdistill.evaluation.finetuning.kinds import recipe_for
from flashdistill.evaluation.finetuning.settings import TaskDistillation, TuningSettings
from flashdistill.evaluation.finetuning.sources import locate_source
from flashdistill.evaluation.finetuning.teaching import label_columns, locate_teacher, teacher_outputs
from flashdistill.training.compute import Compute
from tests.evaluation.finetuning.tiny_task import SETTINGS, polarity, save_bert, strength
from tests.progress_doubles import Messages


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned on the task, its classes in the other order, with a vocabulary of its own."""
    place = tmp_path_factory.mktemp("teacher")
    task = polarity()
    assert task.train.labels is not None  # type: ignore[union-attr]

    def turned(rows: Any) -> Any:
        return dataclasses.replace(rows, labels=1 - rows.labels)

    other = dataclasses.replace(
        task,
        labels=("Good", "Bad"),
        train=turned(task.train),
        evaluation={"validation": turned(task.evaluation["validation"])},
        test=None,
    )
    body = save_bert(place / "body", extra="quite another vocabulary")
    finetune(body, other, SETTINGS.model_copy(update={"epochs": 6}), 0, place / "work").save(place / "model")
    return place / "model"


def taught(teacher: Path | str, **changes: Any) -> TuningSettings:
    return SETTINGS.model_copy(update={"distillation": TaskDistillation(teacher=str(teacher), weight=1.0)} | changes)


def test_a_teacher_with_other_tokens_and_turned_classes_teaches_without_labels(
    tmp_path: Path, student: Path, teacher: Path
) -> None:
    task = polarity()
    rows: Any = task.train
    # With the whole weight on the teacher, wrong labels do no harm.
    wrong = dataclasses.replace(task, train=dataclasses.replace(rows, labels=np.zeros_like(rows.labels)))
    tuned = finetune(student, wrong, taught(teacher, epochs=6), 0, tmp_path)
    assert tuned.scores["validation"]["accuracy"].value >= 0.85


def test_the_teacher_is_asked_once(
    tmp_path: Path, student: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, settings = polarity(), taught(teacher)
    own, located = locate_source(student), locate_source(teacher)
    features = recipe_for(task.kind).features(task.train, task, own.tokenizer, settings)

    def ask(progress: Any) -> np.ndarray:
        return teacher_outputs(located, task, features, own.tokenizer, settings, tmp_path, Compute(), progress)

    messages = Messages()
    first = ask(messages)
    assert messages.texts == [f"asking {teacher} about the 72 training rows of polarity"]
    monkeypatch.setattr("flashdistill.evaluation.finetuning.teaching.load_finetuned", None)
    assert np.array_equal(ask(Silent()), first)
    assert ((first[:, 1] > first[:, 0]) == (task.train.labels == 1)).mean() > 0.9  # type: ignore[union-attr]


def config_of(*labels: str) -> BertConfig:
    return BertConfig(id2label=dict(enumerate(labels)))


def test_labels_are_matched_by_name() -> None:
    task = dataclasses.replace(polarity(), labels=("entailment", "neutral", "contradiction"))
    assert label_columns(config_of("CONTRADICTION", "neutral", "Entailment"), task, "t") == [2, 1, 0]
    assert label_columns(config_of("LABEL_0", "LABEL_1", "LABEL_2"), task, "t") == [0, 1, 2]
    for names in (("bad", "good"), ("bad", "good", "neutral"), ("LABEL_0", "LABEL_1"), ("neutral",) * 3):
        with pytest.raises(InputError, match="knows the labels .*, but polarity has entailment, neutral, contrad"):
            label_columns(config_of(*names), task, "t")


def test_a_teacher_of_another_task_is_refused(student: Path, teacher: Path) -> None:
    own = locate_source(student)
    with pytest.raises(InputError, match="is fine-tuned for classification, but strength is regression"):
        locate_teacher(own, strength(), taught(teacher))
    with pytest.raises(InputError, match="knows the labels Good, Bad, but polarity has no, yes"):
        locate_teacher(own, dataclasses.replace(polarity(), labels=("no", "yes")), taught(teacher))
    with pytest.raises(InputError, match="has not been fine-tuned"):
        locate_teacher(own, polarity(), taught(student))
    assert locate_teacher(own, polarity(), SETTINGS) is None


def test_token_by_token_needs_the_same_tokens(student: Path, teacher: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertForQuestionAnswering

    BertForQuestionAnswering.from_pretrained(student).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    size = len(AutoTokenizer.from_pretrained(teacher))
    own = locate_source(student)
    config.write_text(config.read_text().replace(f'"vocab_size": {own.config.vocab_size}', f'"vocab_size": {size}'))
    task = dataclasses.replace(polarity(), kind="question-answering")
    with pytest.raises(InputError, match="has another tokenizer than .*; question-answering is learnt token by token"):
        locate_teacher(own, task, taught(tmp_path))
    assert torch.is_grad_enabled()
