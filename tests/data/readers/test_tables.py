from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashdistill.core.errors import CorpusError
from flashdistill.data.readers import tables
from flashdistill.data.readers.tables import TableReader
from flashdistill.data.settings import Source, TableSource
from flashdistill.testing.corpus_reader import CorpusReaderConformance
from tests.faults_catalogue import fault


class TestJsonLines(CorpusReaderConformance):
    def write(self, directory: Path, documents: list[str]) -> Source:
        directory.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps({"id": number, "text": document}) for number, document in enumerate(documents)]
        (directory / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
        return TableSource(table=str(directory / "*.jsonl"))

    def missing(self, directory: Path) -> Source:
        return TableSource(table=str(directory / "*.jsonl"))


class TestGzippedCsv(CorpusReaderConformance):
    def write(self, directory: Path, documents: list[str]) -> Source:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "rows.csv"
        with path.open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle).writerows([("id", "body"), *enumerate(documents)])
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        return TableSource(table=str(directory / "*.csv.gz"), column="body")

    def missing(self, directory: Path) -> Source:
        return TableSource(table=str(directory / "*.csv.gz"))


class TestParquet(CorpusReaderConformance):
    def write(self, directory: Path, documents: list[str]) -> Source:
        directory.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": documents, "n": list(range(len(documents)))}), directory / "rows.parquet")
        return TableSource(table=str(directory / "*.parquet"))

    def missing(self, directory: Path) -> Source:
        return TableSource(table=str(directory / "*.parquet"))


def read(path: Path, column: str = "text") -> list[str]:
    return list(TableReader(TableSource(table=str(path), column=column)).documents())


def file(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


@fault(9, "half a line of JSON")
def test_half_a_json_line_names_file_and_line(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"text": "one"}\n\n{"text": "tw')
    with pytest.raises(CorpusError, match=r"a\.jsonl:3: not a complete JSON value"):
        read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"txet": "one", "id": 1}', r"a\.jsonl:1: no column 'text'; present: txet, id; did you mean 'txet'"),
        ('{"text": 5}', r"a\.jsonl:1: column 'text' holds int, not text"),
        ("[1, 2]", r"a\.jsonl:1: a list, not a JSON object"),
    ],
)
@fault(9, "JSON rows without the column, or of other types")
def test_bad_json_rows(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read(file(tmp_path, "a.jsonl", line))


def test_null_and_blank_cells_are_passed_over(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"text": null}\n{"text": " "}\n{"text": "one"}\n')
    assert read(path) == ["one"]
    pq.write_table(pa.table({"text": [None, "two", "  "]}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet") == ["two"]


def test_a_csv_cell_may_hold_lines_and_much_text(tmp_path: Path) -> None:
    long = "word " * 60_000
    path = file(tmp_path, "a.csv", f'id,text\n1,"two\nlines, and ""quotes"""\n2,{long}\n')
    assert read(path) == ['two\nlines, and "quotes"', long]
    assert read(file(tmp_path, "a.tsv", "id\ttext\n1\ta, b\n")) == ["a, b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,body\n1,x\n", r"a\.csv:1: no column 'text'; present: id, body"),
        ("id,text\n1,x\n2\n", r"a\.csv:3: 1 fields where the header has 2"),
        ('id,text\n1,"open', r"a\.csv:2: not valid CSV"),
        ("", r"a\.csv:1: no column 'text'"),
    ],
)
@fault(9, "CSV with a row too short or an open quote")
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read(file(tmp_path, "a.csv", text))


@fault(9, "Parquet file cut, or without the column")
def test_bad_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"] * 100, "id": list(range(100))}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: no column 'text'; present: body, id"):
        read(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: row 0: column 'id' holds int"):
        read(tmp_path / "a.parquet", "id")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(CorpusError, match=r"b\.parquet: not a complete Parquet file"):
        read(tmp_path / "b.parquet")


def test_unknown_extension_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.txt: a table ends in \.jsonl.*corpus\.source=\{files"):
        read(file(tmp_path, "a.txt", "text"))


@fault(9, "a row beyond any document")
def test_an_enormous_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROW_BYTES", 1 << 20)
    path = file(tmp_path, "a.jsonl", '{"text": "one"}\n' + "x" * (3 << 20))
    with pytest.raises(CorpusError, match=r"a\.jsonl:2: a line of more than 1 MiB"):
        read(path)
