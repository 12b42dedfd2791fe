from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.loading import TASKS, load_task
from flashdistill.data.tasks.settings import TaskSettings
from flashdistill.data.tasks.task import Questions, Rows, Sentences, Task


def load(path: Path, seed: int = 0, kind: str = "classification", **settings: Any) -> Task:
    settings = {"name": "mine", "kind": kind, "data": str(path), **settings}
    return load_task(TaskSettings.model_validate(settings), seed)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text {row}", "label": "ab"[row % 2]} for row in range(start, start + count)]


def texts(rows: Rows) -> list[str]:
    assert isinstance(rows, Sentences)
    return rows.texts


def test_every_public_name_can_be_loaded() -> None:
    import importlib

    for target in TASKS.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown task 'sst-2'; allowed: cola, .*mean 'sst2'\?.*set kind and data"):
        load_task(TaskSettings(name="sst-2"), 0)


def test_a_kind_makes_any_name_the_users_own(tmp_path: Path) -> None:
    task = load(write(tmp_path / "t.jsonl", labelled(40)), name="cola")
    assert task.metrics == ("accuracy", "f1", "matthews")


def test_validation_rows_are_held_out_by_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", labelled(40))
    task, same, other = (load(path, seed) for seed in (0, 0, 1))
    assert len(task.train) == 36
    assert task.selecting_split == "validation"
    assert sorted(texts(task.train) + texts(task.evaluation["validation"])) == sorted(
        row["text"] for row in labelled(40)
    )
    assert task.notes == ("4 of 40 train rows are held out for validation",)
    assert task.identity == same.identity != other.identity
    assert len(load(path, validation_fraction=0.25).evaluation["validation"]) == 10


def test_rows_of_one_context_stay_together(tmp_path: Path) -> None:
    rows = [
        {"id": f"{context}.{row}", "question": f"{row}?", "context": f"Number {context}.", "answers": "Number"}
        for row in range(4)
        for context in range(10)
    ]
    task = load(write(tmp_path / "t.jsonl", rows), kind="question-answering")
    validation = task.evaluation["validation"]
    assert isinstance(task.train, Questions)
    assert isinstance(validation, Questions)
    assert len(validation) == 4
    assert not {row.context for row in validation.rows} & {row.context for row in task.train.rows}


def test_fewer_rows(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", labelled(100))
    write(tmp_path / "validation.jsonl", labelled(40, 100))
    write(tmp_path / "test.jsonl", labelled(30, 200))
    task = load(tmp_path, max_train_rows=20, max_evaluation_rows=10)
    assert task.test is not None
    assert (len(task.train), len(task.evaluation["validation"]), len(task.test)) == (20, 10, 10)
    assert isinstance(task.train, Sentences)
    assert task.train.labels is not None
    assert task.train.labels.sum() == 10
    assert texts(task.train) != texts(load(tmp_path, max_train_rows=20).train)[:0] + texts(load(tmp_path).train)[:20]
    assert task.notes == ()
    with pytest.raises(InputError, match="4 train rows .*at least 8 are needed"):
        load(tmp_path, max_train_rows=4)


def test_leaks_are_noted_before_the_rows_are_shortened(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", labelled(100))
    write(tmp_path / "validation.jsonl", labelled(10, 95))
    task = load(tmp_path, max_train_rows=10)
    assert task.notes == ("5 of 10 validation rows are also train rows; scores on them say less",)


def test_the_identity_is_that_of_rows_labels_and_order(tmp_path: Path) -> None:
    rows, validation = labelled(20), labelled(4, 50)
    write(tmp_path / "validation.jsonl", validation)

    def identity(rows: list[dict[str, Any]]) -> str:
        write(tmp_path / "train.jsonl", rows)
        return load(tmp_path).identity

    moved = tmp_path / "moved"
    moved.mkdir()
    write(moved / "train.jsonl", rows)
    write(moved / "validation.jsonl", validation)
    reference = identity(rows)
    assert load(moved, name="other").identity == reference
    relabelled = [{**rows[0], "label": "b"}, *rows[1:]]
    renamed = [{**row, "label": row["label"] + "x"} for row in rows]
    others = [rows[::-1], rows[:-1], relabelled, [{**rows[0], "text": "t"}, *rows[1:]]]
    write(moved / "train.jsonl", renamed)
    write(moved / "validation.jsonl", [{**row, "label": row["label"] + "x"} for row in validation])
    assert len({reference, *map(identity, others), load(moved).identity}) == 6
