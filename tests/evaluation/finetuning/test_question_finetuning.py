"""Whole fine-tunings on questions that a tiny model can learn to answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from flashdistill.data.tasks.loading import load_task
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tasks.task import Task
from flashdistill.data.tokenizer import SPECIAL_TOKENS
from flashdistill.evaluation.finetuning.finetune import finetune
from flashdistill.evaluation.finetuning.question_answers import write_predictions
from flashdistill.evaluation.finetuning.question_recipe import QuestionRecipe, null_threshold
from flashdistill.evaluation.finetuning.settings import TaskDistillation, TuningSettings
from tests.evaluation.finetuning.question_cases import MARKERS, WORDS, marker_questions

SETTINGS = TuningSettings(
    learning_rate=3e-3, epochs=10, batch_size=32, max_length=24, document_stride=4, max_query_length=4,
    max_answer_length=3, n_best=5, dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT that reads the words of the questions."""
    directory = tmp_path_factory.mktemp("body")
    entries = [*SPECIAL_TOKENS, *MARKERS, *WORDS, ".", "?"]
    tokenizer = BertTokenizer(vocab={entry: number for number, entry in enumerate(entries)})
    config = BertConfig(
        vocab_size=len(entries), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=24, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = BertForMaskedLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(str(directory))
    return directory


def squad_task(directory: Path, version: str, unanswerable: float) -> Task:
    """SQuAD's JSON files with the tiny questions, read as a user's are."""
    for stem, count, seed in (("train", 800, 1), ("dev", 100, 2)):
        content = {
            "version": version,
            "data": [{"title": "t", "paragraphs": marker_questions(count, seed, unanswerable)}],
        }
        (directory / f"{stem}-v{version}.json").write_text(json.dumps(content))
    return load_task(TaskSettings(name="squad2" if unanswerable else "squad", data=str(directory)), seed=0)


def test_squad_1_is_learnt(body: Path, tmp_path: Path) -> None:
    task = squad_task(tmp_path, "1.1", unanswerable=0.0)
    # Two windows for each context of nine tokens.
    settings = SETTINGS.model_copy(update={"max_length": 13, "epochs": 6})
    tuned = finetune(str(body), task, settings, 0, tmp_path / "work")
    scores = tuned.scores["validation"]
    # One of three words behind markers is right: a third by chance for a model that finds words.
    assert scores["answer_f1"].value > 0.8
    assert scores["exact_match"].value > 0.8
    assert (scores["answer_f1"].stderr or 0) < 0.06


def test_squad_2_is_learnt_and_taught(body: Path, tmp_path: Path) -> None:
    task = squad_task(tmp_path, "2.0", unanswerable=0.3)
    tuned = finetune(str(body), task, SETTINGS, 0, tmp_path / "work")
    score = tuned.scores["validation"]["answer_f1"]
    assert score.value > 0.8
    assert score.details["threshold"] == 0.0
    assert float(score.details["unanswerable"] or 0) > 0.5
    assert float(score.details["best"] or 0) >= score.value

    # The predictions of the fine-tuned model, by hand compared with the scores.
    recipe, rows = QuestionRecipe(), task.evaluation["validation"]
    features = recipe.features(rows, task, tuned.tokenizer, SETTINGS)
    found = recipe.predictions(recipe.outputs(tuned.model, features, 8), features, rows, SETTINGS)
    write_predictions(found, tmp_path / "predictions", null_threshold(task))
    given = json.loads((tmp_path / "predictions/predictions.json").read_text())
    dev = json.loads((tmp_path / "dev-v2.0.json").read_text())["data"][0]["paragraphs"]
    right = [given[qa["id"]] == (qa["answers"][0]["text"] if qa["answers"] else "") for p in dev for qa in p["qas"]]
    assert sum(right) / len(right) == pytest.approx(tuned.scores["validation"]["exact_match"].value)

    tuned.save(tmp_path / "teacher")
    distillation = TaskDistillation(teacher=str(tmp_path / "teacher"), weight=0.9)
    settings = SETTINGS.model_copy(update={"distillation": distillation, "epochs": 0.5})
    taught = finetune(str(tmp_path / "teacher"), task, settings, 1, tmp_path / "taught")
    assert taught.scores["validation"]["answer_f1"].value > score.value - 0.1
