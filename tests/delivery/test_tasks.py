"""Scores on tasks in tables, in the report and in the cards."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.measurement import Measurement
from flashdistill.delivery.model_card import render_model_card
from flashdistill.delivery.report import write_report
from flashdistill.delivery.task_card import render_task_card
from flashdistill.delivery.task_record import (
    TASKS_FILE,
    FinetunedModel,
    TaskAverage,
    TaskDifference,
    TaskFacts,
    TaskResult,
    TasksRecord,
    TriedSettings,
    TunedModel,
    load_tasks,
)
from flashdistill.delivery.task_tables import difference_text, score_text, tasks_table
from flashdistill.delivery.task_text import models_text, tasks_text

STUDENT, BASELINE = "192_64_1_256_2", "192_64_2_256_2"


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def result(model: str, task: str, metric: str, values: dict[int, float], **more: object) -> TaskResult:
    title, unit = {
        "accuracy": ("accuracy", "fraction"),
        "f1": ("F1", "fraction"),
        "matthews": ("Matthews correlation", "coefficient"),
    }[metric]
    mean = sum(values.values()) / len(values)
    errors = dict.fromkeys(values, 0.02)
    return TaskResult(
        model,
        task,
        "validation",
        metric,
        title,
        unit,
        mean,
        0.01,
        0.09,
        100,
        values,
        errors,
        **more,  # type: ignore[arg-type]
    )


def facts(name: str, metric: str) -> TaskFacts:
    rows = {"train": 1000, "validation": 100}
    return TaskFacts(name, "classification", ("no", "yes"), f"{name}'s files", "key", rows, ("validation", metric))


def tuned(directory: str) -> FinetunedModel:
    return FinetunedModel(
        STUDENT, "runs/a: b", "qqp", "classification", directory, "key", False, 123456, ("no", "yes"), 1, (0, 1),
        ((1, 0.7), (2, 0.83)), {"learning_rate": 3e-5}, 50, 12.0,
        sweep=[TriedSettings({"learning_rate": 1e-5}, 0.8), TriedSettings({"learning_rate": 1.0}, None)],
        problem="no ONNX file: no exporter",
    )  # fmt: skip


@pytest.fixture
def record() -> TasksRecord:
    """Two models on two tasks with two seeds."""
    better = TaskDifference(0.03, 0.02, 2, 2)
    return TasksRecord(
        version="1.2",
        seeds=[0, 1],
        settings={},
        tasks=[replace(facts("qqp", "f1"), notes=("5 rows are copies",)), facts("cola", "matthews")],
        models=[TunedModel(STUDENT, "student", f"models/{STUDENT}"), TunedModel(BASELINE, "baseline", "models/b")],
        results=[
            result(STUDENT, "qqp", "f1", {0: 0.81, 1: 0.83}, difference=better),
            result(STUDENT, "qqp", "accuracy", {0: 0.9, 1: 0.91}, difference=replace(better, half_width=None)),
            result(STUDENT, "cola", "matthews", {0: 0.4, 1: 0.5}, difference=replace(better, mean=-0.03)),
            result(BASELINE, "qqp", "f1", {0: 0.78, 1: 0.8}),
        ],
        averages=[TaskAverage(STUDENT, "accuracy", "accuracy", "fraction", "validation", ("qqp", "sst2"), 0.87)],
        reference=BASELINE,
        failures=["the sky fell"],
    )


def test_numbers() -> None:
    assert plain(score_text("fraction", 0.9134, 0.0042)) == "91.3 ± 0.4"
    assert plain(score_text("coefficient", -0.25)) == "-0.250"
    assert plain(difference_text("fraction", TaskDifference(0.012, 0.009, 2, 3))) == "+1.2 [0.3, 2.1]"
    assert plain(difference_text("coefficient", TaskDifference(-0.5, None, 0, 1))) == "-0.500"
    assert difference_text("fraction", None) == ""


def test_table(record: TasksRecord) -> None:
    table = tasks_table(record)
    assert table is not None
    assert [column.title for column in table.columns][3:] == ["Rows", STUDENT, f"{BASELINE} (baseline)"]
    cells = [[plain(cell.text) for cell in row.cells] for row in table.rows]
    assert cells[0] == ["qqp", "validation", "F1 [%]", "100", "82.0 ± 1.0 (2)", "79.0 ± 1.0 (2)"]
    assert cells[1][2:] == ["accuracy [%]", "100", "90.5 ± 1.0 (2)", "–"]
    assert cells[2][4] == "0.450 ± 0.010 (2)"
    assert cells[3] == ["average", "validation", "accuracy [%]", "", "87.0", "–"]
    assert [plain(remark) for remark in table.rows[0].cells[4].remarks] == ["+3.0 [1.0, 5.0]"]
    assert tasks_table(replace(record, results=[])) is None


def test_terminal(record: TasksRecord) -> None:
    lines = plain(tasks_text(record)).splitlines()
    assert lines[0].split()[-2:] == [STUDENT, BASELINE]
    assert re.split(" {2,}", lines[1])[-2:] == ["82.0 ± 1.0", "79.0 ± 1.0"]
    assert lines[4].startswith("average of 2 tasks  validation")
    assert "Mean ± standard deviation over 2 seeds." in lines
    assert any(line.startswith(f"difference from  {BASELINE}") for line in lines)
    assert lines[-1] == "warning: the sky fell"
    once = tasks_text(replace(record, seeds=[0], reference=""))
    assert "what another seed would change is not known" in once
    assert "difference" not in once


def test_the_record_comes_back_from_its_file(tmp_path: Path, record: TasksRecord) -> None:
    assert load_tasks(tmp_path) is None
    record.save(tmp_path / TASKS_FILE)
    again = load_tasks(tmp_path)
    assert again is not None
    assert again.to_json() == record.to_json()
    assert again.results[0].values == {0: 0.81, 1: 0.83}
    (tmp_path / TASKS_FILE).write_text('{"schema": 99}', encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="flashdistill evaluate again"):
        load_tasks(tmp_path)


def test_report(tmp_path: Path, rich, record: TasksRecord) -> None:  # type: ignore[no-untyped-def]
    page = write_report(rich, tmp_path).read_text(encoding="utf-8")
    assert "<h2>Tasks</h2>" not in page
    record.save(tmp_path / TASKS_FILE)
    page = plain(write_report(rich, tmp_path).read_text(encoding="utf-8"))
    section = page.partition("<h2>Tasks</h2>")[2].partition("</section>")[0]
    assert "82.0 ± 1.0 (2)<small>+3.0 [1.0, 5.0]</small>" in section
    assert "Mean ± standard deviation over 2 seeds." in section
    assert f"difference from {BASELINE}" in section
    assert "qqp&#39;s files; no, yes; rows: 1\u202f000 train, 100 validation; 5 rows are copies" in section
    assert "the sky fell" in section


def test_card_of_a_delivered_student(rich, record: TasksRecord) -> None:  # type: ignore[no-untyped-def]
    model = next(one for one in rich.delivered if str(one.architecture) == STUDENT)
    assert "## Tasks" not in render_model_card(model, rich)
    text = plain(render_model_card(model, rich, record))
    assert f"| score | difference from {BASELINE} \\[95 %\\]" in text or f"difference from {BASELINE} [95 %]" in text
    assert "| qqp | validation | F1 \\[%\\] | 100 | 82.0 ± 1.0 | +3.0 \\[1.0, 5.0\\] |" in text
    assert "| cola | validation | Matthews correlation | 100 | 0.450 ± 0.010 |" in text


def test_card_of_a_fine_tuned_model(record: TasksRecord) -> None:
    model = tuned("models/x")
    card = render_task_card(model, record)
    _, front, text = card.split("---\n", 2)
    (entry,) = YAML(typ="safe").load(front)["model-index"]
    assert [one["metrics"][0]["value"] for one in entry["results"]] == [0.83, 0.91]
    text = plain(text)
    assert "load_finetuned" in text
    assert "| validation | F1 \\[%\\] | 100 | 83.0 ± 2.0 | 82.0 ± 1.0 |" in text
    assert "the best of 2 by f1 on validation" in text
    assert "by epoch: 1: 70.0, 2: 83.0." in text
    assert "- learning_rate 1e-05: 0.8000" in text
    assert "- learning_rate 1.0: diverged" in text
    assert "no ONNX file: no exporter" in text
    assert "5 rows are copies" in text
    assert "## Latency" not in text


def test_where_the_models_are_and_how_fast(record: TasksRecord) -> None:
    latency = Measurement.of("latency_ms", 1.5, stderr=0.01)
    measured = replace(tuned("models/one/mrpc"), measurements={"latency_ms": latency})
    text = models_text(replace(record, delivered=[measured, tuned("models/longer/mrpc")]), Path("out"))
    assert plain(text).splitlines() == [
        "model: out/models/one/mrpc         1.50 ms ± 0.02 a call",
        "model: out/models/longer/mrpc  no ONNX file: no exporter",
    ]
