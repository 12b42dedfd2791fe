from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.parts import Part
from flashdistill.data.tasks.settings import SplitFiles, TaskSettings
from flashdistill.data.tasks.squad import load_squad
from flashdistill.data.tasks.task import Answer, Question, Questions

CONTEXT = "Bergen is wet. Oslo is drier than Bergen."


def entry(identifier: str, answers: list[tuple[str, int]], **more: Any) -> dict[str, Any]:
    given = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": identifier, "question": f"What of {identifier}?", "answers": given, **more}


def write(path: Path, *entries: dict[str, Any], contexts: tuple[str, ...] = (CONTEXT,)) -> Path:
    paragraphs = [{"context": context, "qas": list(entries)} for context in contexts]
    path.write_text(json.dumps({"version": "x", "data": [{"title": "Norway", "paragraphs": paragraphs}]}))
    return path


def questions(part: Part) -> list[Question]:
    assert isinstance(part.rows, Questions)
    return part.rows.rows


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path / "train-v1.1.json", entry("a", [("Bergen", 0)]))
    write(tmp_path / "dev-v1.1.json", entry("b", [("Bergen", 34), ("drier", 23)]))
    raw = load_squad(TaskSettings(name="squad", data=str(tmp_path)))
    assert questions(raw.train) == [Question("a", "What of a?", CONTEXT, (Answer("Bergen", 0),))]
    assert questions(raw.evaluation["validation"])[0].answers == (Answer("Bergen", 34), Answer("drier", 23))
    assert (raw.kind, raw.metrics) == ("question-answering", ("answer_f1", "exact_match"))
    assert not raw.unanswerable
    assert raw.test is None
    assert raw.source == "SQuAD 1.1, the official JSON files"


def test_version_2_has_questions_without_an_answer(tmp_path: Path) -> None:
    impossible = entry("n", [], is_impossible=True, plausible_answers=[{"text": "Oslo", "answer_start": 15}])
    write(tmp_path / "train-v2.0.json", impossible, entry("a", [("Oslo", 15)], is_impossible=False))
    write(tmp_path / "dev-v2.0.json", impossible)
    raw = load_squad(TaskSettings(name="squad2", data=str(tmp_path)))
    assert [row.answers for row in questions(raw.train)] == [(), (Answer("Oslo", 15),)]
    assert raw.unanswerable
    data = SplitFiles(train=str(tmp_path / "train-v2.0.json"))
    with pytest.raises(InputError, match=r"'Norway' \(id 'n'\): a question that its .* name the task squad2"):
        load_squad(TaskSettings(name="squad", data=data))


def test_starts_that_are_a_little_off_are_mended(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", entry("a", [("Bergen", 33), (" Bergen ", 1), ("Oslo", 16)]))
    raw = load_squad(TaskSettings(name="squad", data=str(path)))
    assert questions(raw.train)[0].answers == (Answer("Bergen", 34), Answer("Bergen", 0), Answer("Oslo", 15))
    assert raw.evaluation == {}


def test_questions_about_one_context_are_one_group(tmp_path: Path) -> None:
    contexts = (CONTEXT, "Oslo.", CONTEXT)
    path = write(tmp_path / "train.json", entry("a", [("Oslo", 0)]), entry("b", [("Oslo", 0)]), contexts=contexts)
    groups = load_squad(TaskSettings(name="squad", data=str(path))).train.groups
    assert groups is not None
    assert groups.tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [', "not complete JSON"),
        ('{"data": [{"title": "T"}]}', "not SQuAD's form, .*KeyError: 'paragraphs'"),
        ("[1]", "not SQuAD's form"),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_squad(TaskSettings(name="squad", data=str(tmp_path / "train.json")))


def test_an_answer_that_the_context_lacks(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", entry("a", [("Trondheim", 3)]))
    with pytest.raises(
        InputError, match=r"train.json, 'Norway' \(id 'a'\): the context does not contain .*'Trondheim'"
    ):
        load_squad(TaskSettings(name="squad", data=str(path)))


def test_missing_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train-v1.1.json", entry("a", [("Oslo", 15)]))
    with pytest.raises(InputError, match="no file '.*dev-v1.1.json'.* train-v1.1.json and dev-v1.1.json"):
        load_squad(TaskSettings(name="squad", data=str(tmp_path)))


def split() -> datasets.Dataset:
    answers = [{"text": ["Oslo"], "answer_start": [15]}, {"text": [], "answer_start": []}]
    columns = {"id": ["a", "b"], "title": ["T", "T"], "context": [CONTEXT] * 2, "question": ["A?", "B?"]}
    return datasets.Dataset.from_dict({**columns, "answers": answers})


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(path: str, config: None, revision: str | None) -> Any:
        asked.append((path, config, revision))
        return datasets.DatasetDict({"train": split(), "validation": split()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    raw = load_squad(TaskSettings(name="squad2", revision="v2"))
    assert questions(raw.train) == [
        Question("a", "A?", CONTEXT, (Answer("Oslo", 15),)),
        Question("b", "B?", CONTEXT, ()),
    ]
    load_squad(TaskSettings(name="squad"))
    assert asked == [("rajpurkar/squad_v2", None, "v2"), ("rajpurkar/squad", None, None)]


def test_a_copy_of_the_hubs_files(tmp_path: Path) -> None:
    (tmp_path / "squad_v2").mkdir()
    for name in ("train", "validation"):
        split().to_parquet(str(tmp_path / "squad_v2" / f"{name}-00000-of-00001.parquet"))
    raw = load_squad(TaskSettings(name="squad2", data=str(tmp_path)))
    assert [row.answers for row in questions(raw.evaluation["validation"])] == [(Answer("Oslo", 15),), ()]
