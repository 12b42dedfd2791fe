"""``flashdistill evaluate``: the models of a tiny run on a task, in its report and its cards."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flashdistill import cli, pipeline
from flashdistill.config import load_config
from flashdistill.core.files import read_json
from flashdistill.core.progress import Silent
from flashdistill.evaluation.finetuning import plan
from tests.evaluation.finetuning.tiny_task import sentences
from tests.tiny_run import CONFIG, in_directory, write_text

FINETUNE = """\
finetune: {tasks: [{name: reviews, data: reviews.csv, kind: classification}], seeds: 2, epochs: 1, batch_size: 16,
           learning_rate: 1.0e-2, max_length: 16}
"""


def call(directory: Path, *arguments: str) -> Any:
    with in_directory(directory):
        return CliRunner().invoke(cli.app, ["evaluate", *arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and rows."""
    directory = tmp_path_factory.mktemp("evaluate")
    write_text(directory)
    (directory / "tiny.yaml").write_text(CONFIG + FINETUNE, encoding="utf-8")
    rows = sentences(60, 0)
    assert rows.labels is not None
    with (directory / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *zip(rows.texts, rows.labels.tolist(), strict=True)])
    with in_directory(directory):
        pipeline.run(load_config(Path("tiny.yaml")), Silent())
    return directory


@pytest.fixture(scope="module")
def evaluated(place: Path) -> Any:
    return call(place, "run")


def test_students_baseline_and_teacher_are_in_the_report_and_the_cards(place: Path, evaluated: Any) -> None:
    assert evaluated.exit_code == 0, evaluated.output
    record = read_json(place / "run" / "tasks.json")
    roles = {model["role"]: model["name"] for model in record["models"]}
    assert set(roles) == {"student", "baseline", "teacher"}
    assert record["reference"] == roles["baseline"] == "32_16_2_32_2"
    assert {(one["model"], one["seed"]) for one in record["scores"]} == {
        (name, seed) for name in roles.values() for seed in (0, 1)
    }
    compared = [one["model"] for one in record["results"] if one["difference"] is not None]
    assert set(compared) == {roles["student"], roles["teacher"]}
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    section = page.partition("<h2>Tasks</h2>")[2].partition("</section>")[0]
    assert all(name in section for name in roles.values())
    for role in ("student", "baseline"):
        card = (place / "run" / "models" / roles[role] / "README.md").read_text(encoding="utf-8")
        assert "## Tasks" in card
        assert "| reviews | validation |" in card
    for model in record["delivered"]:
        assert (place / "run" / model["directory"] / "model.onnx").is_file()


def test_it_is_not_done_twice_and_stays_when_the_run_is_reported_again(
    place: Path, evaluated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(plan, "finetune", never)
    assert call(place, "run").stdout == evaluated.stdout
    with in_directory(place):
        pipeline.run(load_config(Path("tiny.yaml")), Silent())
    assert "<h2>Tasks</h2>" in (place / "run" / "report.html").read_text(encoding="utf-8")
    assert "## Tasks" in (place / "run" / "models" / "32_16_2_32_2" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "finetune.tasks=[]"], "'finetune.tasks=[sst2, mrpc]'"),
        (["run", "finetune.taskz=[sst2]"], "did you mean 'tasks'?"),
        (["run", "finetune.tasks=[sst3]"], "did you mean 'sst2'?"),
        (["run", "seed=5"], "only finetune and training may be overridden, not seed: was 0, is 5"),
        (["."], "is not a run directory"),
    ],
)
def test_mistakes(place: Path, arguments: list[str], message: str) -> None:
    result = call(place, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_run_without_models(place: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((place / "run" / "config.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    result = call(place, str(tmp_path))
    assert result.exit_code == 2
    assert "has no delivered model yet" in result.stderr
