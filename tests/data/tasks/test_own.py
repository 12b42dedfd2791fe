from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.own import load_own
from flashdistill.data.tasks.parts import Part, RawTask
from flashdistill.data.tasks.settings import SplitFiles, TaskSettings
from flashdistill.data.tasks.task import Answer, Question, Questions, Sentences

ROWS = [("one, two", "b"), ("three", "a"), ('say "x"\nand y', "b")]


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    """A table in the format that the extension names."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
        return path
    if ".jsonl" in path.name:
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
    else:
        delimiter = "," if ".csv" in path.name else "\t"
        cells = [list(columns), *([str(row[name]) for name in columns] for row in rows)]
        quoted = (['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells)
        text = "\n".join(delimiter.join(row) for row in quoted) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def own(path: Path | SplitFiles, kind: str = "classification", **settings: Any) -> RawTask:
    data = path if isinstance(path, SplitFiles) else str(path)
    return load_own(TaskSettings.model_validate({"name": "mine", "kind": kind, "data": data, **settings}))


def sentences(part: Part) -> Sentences:
    assert isinstance(part.rows, Sentences)
    return part.rows


def labels(part: Part) -> list[float]:
    values = sentences(part).labels
    assert values is not None
    return values.tolist()


def questions(part: Part) -> list[Question]:
    assert isinstance(part.rows, Questions)
    return part.rows.rows


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.csv.gz", "t.jsonl.gz", "t.parquet"])
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    texts, classes = [text for text, _ in ROWS], [label for _, label in ROWS]
    raw = own(write(tmp_path / name, {"text": texts, "label": classes, "other": ["x"] * 3}))
    assert sentences(raw.train).texts == texts
    assert sentences(raw.train).pairs is None
    assert labels(raw.train) == [1, 0, 1]
    assert raw.labels == ("a", "b")
    assert raw.metrics == ("accuracy", "f1", "matthews")
    assert (raw.evaluation, raw.test, raw.public) == ({}, None, False)
    assert raw.train.place(1) == str(tmp_path / name) + {"parquet": ", row 1", "jsonl": ":2"}.get(
        name.split(".")[1], ":3"
    )


@pytest.mark.parametrize(
    ("values", "order"),
    [
        (["10", "9", "9", "-1"], ("-1", "9", "10")),
        ([10, 9, 9, -1], ("-1", "9", "10")),
        ([1.0, 0.0, 1.0, 0.0], ("0", "1")),
        (["b", "a", "10", "a"], ("10", "a", "b")),
        ([True, False, True, False], ("False", "True")),
    ],
)
def test_labels_of_any_kind_are_sorted(values: list[Any], order: tuple[str, ...], tmp_path: Path) -> None:
    assert own(write(tmp_path / "t.jsonl", {"text": ["x"] * 4, "label": values})).labels == order


def test_columns_of_other_names_and_pairs(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", {"p": ["a", "b", "c"], "h": ["d", "e", "f"], "y": ["1", "2", "3"]})
    raw = own(path, kind="regression", text="p", pair="h", label="y")
    assert sentences(raw.train).pairs == ["d", "e", "f"]
    assert labels(raw.train) == [1.0, 2.0, 3.0]
    assert (raw.kind, raw.labels, raw.metrics) == ("regression", (), ("pearson", "spearman", "rmse"))


def test_a_directory_of_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", {"text": ["a", "b", "c", "d"], "label": ["x", "y", "z", "z"]})
    write(tmp_path / "validation.jsonl", {"text": ["v"], "label": ["z"]})
    write(tmp_path / "test.parquet", {"text": ["t"], "label": ["y"]})
    (tmp_path / "train.md").write_text("notes")
    raw = own(tmp_path)
    assert labels(raw.evaluation["validation"]) == [2]
    assert raw.test is not None
    assert labels(raw.test) == [1]
    assert raw.metrics == ("accuracy", "matthews")
    assert raw.source == "files train.csv, validation.jsonl, test.parquet"
    write(tmp_path / "train.tsv", {"text": ["a"], "label": ["x"]})
    with pytest.raises(InputError, match=r"several files of train rows .*\(train.csv, train.tsv\)"):
        own(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no training rows; name the file train.csv"):
        own(tmp_path / "empty")


def test_a_label_that_training_lacks(tmp_path: Path) -> None:
    train = write(tmp_path / "t.csv", {"text": ["a", "b", "c"], "label": ["x", "y", "x"]})
    validation = write(tmp_path / "v.csv", {"text": ["a", "b"], "label": ["x", "z"]})
    with pytest.raises(InputError, match=r"v.csv:3: the label 'z' is none of the task's \(x, y\)"):
        own(SplitFiles(train=str(train), validation=str(validation)))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("classification", [0.5, 1.0], r"t.jsonl:1: the label 0.5 is no class; .*kind: regression"),
        ("classification", ["a", None], "t.jsonl:2: the label is missing"),
        ("classification", ["a", " "], "t.jsonl:2: the label is empty"),
        ("classification", ["a", ["b"]], "t.jsonl:2: the label is a list"),
        ("classification", ["a", "b", "c"], "each of the 3 rows has a class of its own"),
        ("regression", [1, "high"], "t.jsonl:2: the label 'high' is not a number"),
        ("regression", [1, None], "t.jsonl:2: the label None is not a number"),
        ("regression", [1, True], "t.jsonl:2: the label True is not a number"),
    ],
)
def test_labels_that_are_none(kind: str, values: list[Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"text": ["x"] * len(values), "label": values})
    with pytest.raises(InputError, match=message):
        own(path, kind=kind)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "text,labels\na,b\n", "t.csv:1: no column 'label'; present: text, labels; did you mean 'labels'"),
        ("t.csv", "text,label\na,b,c\n", "t.csv:2: 3 fields where the header has 2"),
        ("t.csv", 'text,label\n"a"b,c\n', "t.csv:2: not valid CSV"),
        ("t.csv", "text,text,label\na,b,c\n", "t.csv:1: several columns are called 'text'"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "a"\n', "t.jsonl:2: not a complete JSON value"),
        ("t.jsonl", '{"text": "a", "label": 1}\n\n{"text": "a"}\n', "t.jsonl:3: no column 'label'"),
        ("t.jsonl", "[1]\n", "t.jsonl:1: a list, not a JSON object"),
        ("t.jsonl", '{"text": 3, "label": 1}\n', "t.jsonl:1: column 'text' holds int, not text"),
        ("t.json", "{}", "t.json: rows are read from .csv"),
        ("t.parquet", "PAR1", "not a complete Parquet file"),
    ],
)
def test_broken_tables(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        own(tmp_path / name)


def test_missing_files_and_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file '.*none.csv'"):
        own(tmp_path / "none.csv")
    path = write(tmp_path / "t.parquet", {"text": ["a"], "labels": ["x"]})
    with pytest.raises(InputError, match="no column 'label'; present: text, labels; did you mean 'labels'"):
        own(path)


CONTEXT = "Rain in May, rain in June."


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("May", (Answer("May", 8),)),
        (["June", "in June"], (Answer("June", 21), Answer("in June", 18))),
        ({"text": ["in"], "answer_start": [18]}, (Answer("in", 18),)),
        ({"text": ["in"], "answer_start": None}, (Answer("in", 5),)),
        ({"text": [], "answer_start": []}, ()),
        ([], ()),
        (None, ()),
        ("", ()),
    ],
)
def test_answers_in_every_form(cell: Any, answers: tuple[Answer, ...], tmp_path: Path) -> None:
    columns = {"question": ["When?", "Who?"], "context": [CONTEXT] * 2, "answers": [cell, "Rain"]}
    raw = own(write(tmp_path / "t.jsonl", columns), kind="question-answering")
    assert [row.answers for row in questions(raw.train)] == [answers, (Answer("Rain", 0),)]
    assert raw.unanswerable == (not answers)
    assert [row.id for row in questions(raw.train)] == ["1", "2"]
    assert raw.metrics == ("answer_f1", "exact_match")


def test_answers_in_cells_of_a_csv_file(tmp_path: Path) -> None:
    cells = ["May", '["June", "May"]', '{"text": ["in"], "answer_start": [18]}', "", "[sic]"]
    contexts = [CONTEXT] * 4 + ["Rain [sic] fell."]
    columns = {"id": list("abcde"), "question": ["?"] * 5, "context": contexts, "answers": cells}
    rows = questions(own(write(tmp_path / "t.csv", columns), kind="question-answering").train)
    assert [row.id for row in rows] == list("abcde")
    assert [tuple((answer.text, answer.start) for answer in row.answers) for row in rows] == [
        (("May", 8),),
        (("June", 21), ("May", 8)),
        (("in", 18),),
        (),
        (("[sic]", 5),),
    ]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("August", r"t.jsonl:1 \(id 'a'\): the context does not contain the answer 'August'"),
        (["May", ""], "an answer is empty"),
        ([1], "answers are a text, a list of texts"),
        (7, "answers are a text, a list of texts"),
        ({"text": ["May"], "answer_start": [1, 2]}, "answer_start must be a list of 1 whole numbers"),
        ({"text": ["May"], "answer_start": ["8"]}, "answer_start must be"),
    ],
)
def test_answers_that_are_none(cell: Any, message: str, tmp_path: Path) -> None:
    columns = {"id": ["a"], "question": ["When?"], "context": [CONTEXT], "answers": [cell]}
    with pytest.raises(InputError, match=message):
        own(write(tmp_path / "t.jsonl", columns), kind="question-answering")
