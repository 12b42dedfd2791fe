"""Tables 3 and 4 at a scale of seconds, and what they say about given numbers."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import InputError
from flashdistill.data.tasks.loading import load_task
from flashdistill.evaluation.finetuning import plan
from reproduce import finetuning_matrix, scales, table3, table4
from reproduce.finetuning_reading import compared_with_baseline, draw, markdown_table, overall, sentences
from reproduce.scales import SCALES, FineTuning, Scale, TeacherShape, finish, opened
from tests.tiny_run import CONFIG, in_directory, write_text

STUDENTS = tuple(Architecture.parse(name) for name in ("32_16_2_32_2", "16_8_1_16_1", "32_8_1_32_2"))
SECTION = (
    "finetune={{tasks: [{{name: colours, data: '{0}/colours.csv', kind: classification, text: text, label: label}}, "
    "{{name: asked, data: '{0}/asked.jsonl', kind: question-answering}}], seeds: 2, learning_rate: 1.0e-2, epochs: 1, "
    "batch_size: 8, max_length: 24, max_query_length: 6, max_answer_length: 3}}"
)


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Scale:
    directory = tmp_path_factory.mktemp("reproduce")
    write_text(directory)
    (directory / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    rows = [f"{'red' if row % 2 else 'blue'} thing {row},{'warm' if row % 2 else 'cold'}" for row in range(40)]
    (directory / "colours.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    questions = [
        {"question": f"what is {row}", "context": f"the thing {row} is red", "answers": "red"} for row in range(40)
    ]
    (directory / "asked.jsonl").write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
    overrides = (
        "flash={steps_per_block: 1, pretraining_steps: 2, batch_size: 8, optimizer: adamw, transfer_head: false}",
        "regular={steps_per_block: 2, pretraining_steps: 4}",
    )
    part = FineTuning(SECTION.format(directory), (1, 1, 1), {"epochs": 0.5})
    shape = TeacherShape(2, 32, 64, 250)
    return Scale(
        "tiny", directory / "tiny.yaml", overrides, STUDENTS, 1, 1, 5, shape, 1e10, finetuning={"table3": part}
    )


def test_everything_is_trained_once_and_told(scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned: list[tuple[str, str, int]] = []
    original = plan.finetune

    def note(source: Any, task: Any, settings: Any, seed: int, *others: Any) -> Any:
        tuned.append((source.name, task.name, seed))
        return original(source, task, settings, seed, *others)

    monkeypatch.setattr(plan, "finetune", note)
    part = scale.finetuning["table3"]
    config = scale.load([part.section])
    assert config.finetune is not None
    tasks = [load_task(task, 0) for task in config.finetune.tasks]
    with in_directory(scale.config.parent), opened(scale, config) as place:
        assert place is not None
        found = finetuning_matrix.results(place, part, tasks)
        # Teacher, best student and its control with two seeds, two stages, one student and the baseline.
        assert len(tuned) == 2 * (1 + 2 * 2 + 1 + 2)
        again = finetuning_matrix.results(place, part, tasks)
        assert len(tuned) == 16, "all is kept"
        assert again["scores"] == found["scores"]
    assert [row["role"] for row in found["rows"]] == [
        "teacher", "two-stage", "best", "student", "baseline", "from scratch"
    ]  # fmt: skip
    assert {one["metric"] for one in found["scores"]} == {"accuracy", "f1", "answer_f1", "exact_match"}
    assert [one["difference"]["count"] for one in found["against_scratch"]] == [2] * 4
    assert found["rows"][2]["parameters"] == found["rows"][5]["parameters"] < found["rows"][0]["parameters"]
    for name, script in (("table3", table3), ("table4", table4)):
        finish(name, tmp_path, draw(found), found, script.paragraph(found), markdown_table(found))
        assert json.loads((tmp_path / f"{name}.json").read_text())["reading"] in (tmp_path / f"{name}.md").read_text()
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert markdown_table(found).count("\n") == 7
