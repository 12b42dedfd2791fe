"""``flashdistill finetune`` as a user calls it: own rows, public formats, resumption, mistakes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from ruamel.yaml import YAML
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
)
from typer.testing import CliRunner

from flashdistill import cli, finetune_command
from flashdistill.core.errors import DivergedError
from flashdistill.core.files import read_json
from flashdistill.core.progress import Silent
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tokenizer import SPECIAL_TOKENS
from flashdistill.evaluation.finetuning import finetune as engine
from flashdistill.evaluation.finetuning import plan
from flashdistill.evaluation.finetuning.heads import load_finetuned
from flashdistill.finetune_command import Subject, finetune
from flashdistill.finetune_request import FinetuneRequest
from tests.evaluation.finetuning.question_cases import MARKERS, WORDS, marker_questions
from tests.evaluation.finetuning.tiny_task import deliver_student, save_bert, sentences
from tests.progress_doubles import KilledError, Killer
from tests.tiny_run import in_directory

QUICK = (
    "learning_rate=1e-2",
    "epochs=3",
    "max_length=16",
    "batch_size=16",
    "target.measurement={seconds: 0.2, final_seconds: 0.2, block_ms: 2, patience_seconds: 0, tolerance: 0.9, "
    "final_tolerance: 0.9}",
)


def call(directory: Path, *arguments: str) -> Any:
    with in_directory(directory):
        return CliRunner().invoke(cli.app, ["finetune", *arguments])


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def reviews(path: Path, count: int, seed: int) -> None:
    rows = sentences(count, seed)
    assert rows.labels is not None
    names = ["good" if label else "bad" for label in rows.labels]
    write_rows(path, ["review", "verdict"], list(zip(rows.texts, names, strict=True)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two students, an encoder, and rows."""
    directory = tmp_path_factory.mktemp("finetune")
    deliver_student(directory / "run" / "student", "mobilebert")
    deliver_student(directory / "own", "autodistill")
    save_bert(directory / "bert")
    reviews(directory / "reviews.csv", 96, 0)
    reviews(directory / "dev.csv", 30, 1)
    return directory


OWN = ("--data", "reviews.csv", "--validation", "dev.csv", "--text", "review", "--label", "verdict")


@pytest.fixture(scope="module")
def finished(place: Path) -> Any:
    """Three models with two seeds on rows of one's own."""
    return call(place, "run/student", "own", "bert", *OWN, "--seeds", "2", *QUICK, "--json", "scores.json")


def test_every_score_says_what_it_is(place: Path, finished: Any) -> None:
    assert finished.exit_code == 0, finished.output
    scores = read_json(place / "scores.json")["scores"]
    keys = {(one["model"], one["task"], one["split"], one["metric"], one["seed"]) for one in scores}
    assert keys == {
        (model, "reviews", "validation", metric, seed)
        for model in ("student", "own", "bert")
        for metric in ("accuracy", "f1", "matthews")
        for seed in (0, 1)
    }
    assert all(one["samples"] == 30 for one in scores)


def test_the_table_has_means_over_the_seeds(place: Path, finished: Any) -> None:
    scores = read_json(place / "scores.json")["scores"]
    values = [one["value"] for one in scores if (one["model"], one["metric"]) == ("bert", "accuracy")]
    mean = f"{100 * np.mean(values):.1f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * np.std(values, ddof=1):.1f}"
    lines = finished.stdout.splitlines()
    assert lines[0].split() == ["task", "split", "metric", "rows", "student", "own", "bert"]
    assert lines[1].startswith("reviews  validation")
    assert lines[1].endswith(mean)
    assert "Mean ± standard deviation over 2 seeds." in lines
    (bert,) = [line for line in lines if line.startswith("model: finetuned/models/bert/reviews ")]
    assert re.search(r" [\d.]+\sms\s±\s[\d.]+ a call$", bert), bert


def answers(model: Path, batch: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    feed = {name: batch[name].numpy() for name in ("input_ids", "attention_mask", "token_type_ids")}
    return [np.asarray(one) for one in session.run(None, feed)]


@pytest.mark.parametrize("name", ["student", "bert"])
def test_stock_transformers_loads_what_is_delivered(place: Path, finished: Any, name: str) -> None:
    directory = place / "finetuned" / "models" / name / "reviews"
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert model.config.id2label == {0: "bad", 1: "good"}
    batch = tokenizer(["the film is lovely", "the actor is dull and cold"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    np.testing.assert_allclose(answers(directory, batch)[0], expected, atol=1e-5)


def test_the_own_template_is_delivered_too(place: Path, finished: Any) -> None:
    directory = place / "finetuned" / "models" / "own" / "reviews"
    model, tokenizer = load_finetuned(directory)
    batch = tokenizer(["the film is lovely", "dull"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    np.testing.assert_allclose(answers(directory, batch)[0], expected, atol=1e-5)
    assert "load_finetuned" in (directory / "README.md").read_text(encoding="utf-8")


def test_figures_and_card(place: Path, finished: Any) -> None:
    directory = place / "finetuned" / "models" / "bert" / "reviews"
    figures = read_json(directory / "flashdistill.json")
    by_seed = {
        one["seed"]: one["value"]
        for one in read_json(place / "scores.json")["scores"]
        if (one["model"], one["metric"]) == ("bert", "accuracy")
    }
    assert figures["seeds"] == [0, 1]
    assert by_seed[figures["seed"]] == max(by_seed.values())
    latency = figures["measurements"]["latency_ms"]
    assert latency["value"] > 0
    assert (latency["environment"]["batch_size"], latency["environment"]["sequence_length"]) == (1, 16)
    assert figures["parity_max_abs"] < 1e-5
    _, front, text = (directory / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metadata = YAML(typ="safe").load(front)
    assert metadata["pipeline_tag"] == "text-classification"
    assert metadata["license"] == "other"
    (entry,) = metadata["model-index"]
    assert entry["results"][0]["metrics"][0]["value"] == by_seed[figures["seed"]]
    assert "files reviews.csv, dev.csv" in text
    assert "| validation | F1" in text
    for snippet in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        with in_directory(directory):
            exec(compile(snippet, "card", "exec"), {})  # it has to work as it stands


def test_the_same_command_does_nothing_twice(place: Path, finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(plan, "finetune", never)
    monkeypatch.setattr(finetune_command, "deliver_finetuned", never)
    again = call(place, "run/student", "own", "bert", *OWN, "--seeds", "2", *QUICK)
    assert again.exit_code == 0, again.output
    assert again.stdout == finished.stdout


def test_a_fine_tuned_teacher_and_a_control_from_scratch(place: Path, finished: Any) -> None:
    teacher = "finetuned/models/bert/reviews"
    arguments = ("run/student", "--scratch", "--teacher", teacher, "--seeds", "1", "--no-latency")
    result = call(place, *arguments, *OWN, *QUICK, "epochs=1", "distillation.weight=0.3", "--output", "taught")
    assert result.exit_code == 0, result.output
    figures = read_json(place / "taught" / "models" / "student" / "reviews" / "flashdistill.json")
    assert figures["settings"]["distillation"] == {"teacher": teacher, "weight": 0.3, "temperature": 2.0}
    assert figures["measurements"] == {}
    assert "student from scratch" in result.stdout.splitlines()[0]


def test_glue_files_as_published(place: Path, tmp_path: Path) -> None:
    for stem, count, seed in (("train", 64, 0), ("dev", 24, 1)):
        rows = sentences(count, seed, pairs=True)
        assert rows.labels is not None
        assert rows.pairs is not None
        table = [
            (i, 2 * i, 2 * i + 1, first, second, label)
            for i, (first, second, label) in enumerate(zip(rows.texts, rows.pairs, rows.labels.tolist(), strict=True))
        ]
        header = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]
        write_rows(tmp_path / f"{stem}.tsv", header, table, "\t")
    output = ("--output", str(tmp_path / "out"), "--no-latency")
    result = call(place, "own", "--task", "qqp", "--data", str(tmp_path), "--seeds", "1", *QUICK, "epochs=1", *output)
    assert result.exit_code == 0, result.output
    table = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in table[1:3]] == ["qqp", "qqp"]
    assert ["F1" in table[1], "accuracy" in table[2]] == [True, True]
    assert "average" not in result.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that knows the words of the questions."""
    directory = tmp_path_factory.mktemp("reader")
    entries = [*SPECIAL_TOKENS, *MARKERS, *WORDS, ".", "?"]
    config = BertConfig(
        vocab_size=len(entries), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
        max_position_embeddings=24,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(directory)
    BertTokenizer(vocab={entry: number for number, entry in enumerate(entries)}).save_pretrained(str(directory))
    return directory


def test_squad_files_as_published(reader: Path, tmp_path: Path) -> None:
    for stem, count, seed in (("train", 60, 1), ("dev", 20, 2)):
        data = [{"title": "t", "paragraphs": marker_questions(count, seed, 0.3)}]
        (tmp_path / f"{stem}-v2.0.json").write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    windows = ("max_length=24", "document_stride=4", "max_query_length=4", "max_answer_length=3", "n_best=5")
    arguments = (str(reader), "--task", "squad2", "--data", ".", "--seeds", "1", *QUICK, *windows, "epochs=1")
    result = call(tmp_path, *arguments)
    assert result.exit_code == 0, result.output
    directory = tmp_path / "finetuned" / "models" / reader.name / "squad2"
    ids = {f"2-{number}" for number in range(20)}
    assert set(read_json(directory / "predictions.json")) == ids
    assert all(len(entry) <= 6 for entry in read_json(directory / "nbest.json").values())
    assert set(read_json(directory / "null_odds.json")) == ids
    model = AutoModelForQuestionAnswering.from_pretrained(directory)
    batch = AutoTokenizer.from_pretrained(directory)("red ?", "red river . blue stone .", return_tensors="pt")
    with torch.no_grad():
        output = model(**batch)
    start, end = answers(directory, batch)
    np.testing.assert_allclose(start, output.start_logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(end, output.end_logits.numpy(), atol=1e-5)
    assert read_json(directory / "flashdistill.json")["measurements"]["latency_ms"]["value"] > 0


def request(place: Path, **changes: Any) -> FinetuneRequest:
    task = TaskSettings(
        name="reviews", kind="classification", text="review", label="verdict", data=str(place / "reviews.csv")
    )
    settings = {"learning_rate": 1e-2, "epochs": 2, "max_length": 16, "batch_size": 16, "seeds": 2, "tasks": [task]}
    return FinetuneRequest.model_validate({**settings, **changes})


@pytest.mark.parametrize("at", [3, 13])  # within the first seed, and within the second
def test_what_was_killed_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS_PER_PARAMETER", 0.0)
    subjects = {"student": Subject(str(place / "run" / "student"))}
    settings = request(place)
    whole = finetune(subjects, settings, tmp_path / "whole", Silent(), measure=False)
    with pytest.raises(KilledError):
        finetune(subjects, settings, tmp_path / "killed", Killer(at), measure=False)
    assert not (tmp_path / "killed" / "tasks.json").exists()
    resumed = finetune(subjects, settings, tmp_path / "killed", Silent(), measure=False)
    assert whole is not None
    assert resumed is not None
    assert resumed.scores == whole.scores
    place_of = Path("models") / "student" / "reviews" / "model.safetensors"
    assert (tmp_path / "killed" / place_of).read_bytes() == (tmp_path / "whole" / place_of).read_bytes()


def test_a_model_that_cannot_be_exported_is_delivered_without(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flashdistill.core.errors import TargetError
    from flashdistill.delivery import task_deliver

    def refuse(*_: Any) -> None:
        raise TargetError("export: no such operator")

    monkeypatch.setattr(task_deliver, "export_task_model", refuse)
    record = finetune({"bert": Subject(str(place / "bert"))}, request(place, seeds=1), tmp_path, Silent())
    assert record is not None
    assert record.failures == ["bert on reviews: no ONNX file: export: no such operator"]
    directory = tmp_path / record.delivered[0].directory
    assert not (directory / "model.onnx").exists()
    assert AutoModelForSequenceClassification.from_pretrained(directory).config.num_labels == 2


def test_nothing_but_divergence_is_an_error(place: Path, tmp_path: Path) -> None:
    subjects = {"bert": Subject(str(place / "bert"))}
    with pytest.raises(DivergedError, match="bert on reviews, seed 0"):
        finetune(subjects, request(place, seeds=1, learning_rate=1e30), tmp_path, Silent(), measure=False)


MISTAKES = [
    (["bert"], "there is no task to fine-tune on; name a task with --task NAME"),
    ([*OWN], "name at least one model"),
    (["bert", "--task", "sst3"], "did you mean 'sst2'?"),
    (["bert", "bert", *OWN], "bert is named twice"),
    (["nowhere/at/all", *OWN], "there is no directory nowhere/at/all"),
    (["bert", *OWN, "learning_rat=1e-3"], "learning_rat: unknown key; did you mean 'learning_rate'?"),
    (["bert", *OWN, "max_length=64"], "bert takes at most 32 tokens, but finetune.max_length is 64"),
    (["bert", *OWN, "task.labl=x"], "unknown key; did you mean 'label'?"),
    (["bert", "--data", "reviews.csv", "--label", "verdict"], "text"),
    (["bert", "--data", "none.csv"], "none.csv"),
    (["bert", "--task", "sst2", "--kind", "classification"], "name them with --data"),
    (["bert", "--validation", "dev.csv"], "name these with --data"),
    (["32_16_2_32_1", *OWN], "name a run's YAML file with --config"),
    (["bert", "--scratch", *OWN], "is no student of this tool"),
    (["bert", *OWN, "--teacher", "bert"], "bert has not been fine-tuned"),
    (["bert", *OWN, "--seeds", "0"], "option --seeds: seeds: got 0"),
    (["bert", "--task", "cola", "--task", "cola"], "the task cola is named twice"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_told_before_any_training(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(plan, "finetune", never)
    short = [] if any(one.startswith("max_length") for one in arguments) else ["max_length=16"]
    result = call(place, *arguments, *short, "--output", str(tmp_path / "out"))
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in result.output


def test_labels_that_training_lacks_are_told_with_their_line(place: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "dev.csv", ["review", "verdict"], [["the film is warm", "good"], ["dull", "awful"]])
    data = ("--data", "reviews.csv", "--validation", str(tmp_path / "dev.csv"), "--text", "review")
    result = call(place, "bert", *data, "--label", "verdict", "--output", str(tmp_path / "out"), "max_length=16")
    assert result.exit_code == 2, result.output
    assert re.search(r"dev\.csv:3: .*awful", result.stderr)
