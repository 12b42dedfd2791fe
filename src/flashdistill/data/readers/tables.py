"""A text column of JSONL, CSV, TSV or Parquet files; one row is one document."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flashdistill.core.errors import CorpusError
from flashdistill.core.registry import did_you_mean
from flashdistill.data.readers.base import CorpusReader
from flashdistill.data.readers.files import (
    as_list,
    combined,
    hash_files,
    matching_files,
    read_pieces,
    reading,
)
from flashdistill.data.settings import TableSource

MAX_ROW_BYTES = 64 << 20
"""A longer row is refused: it is no document but a file in another format."""

_ROWS_PER_READ = 256


class TableReader(CorpusReader):
    """One column of JSONL, CSV, TSV (all three also ``.gz``) or Parquet files, by extension."""

    def __init__(self, source: TableSource):
        self._source = source

    def documents(self) -> Iterator[str]:
        for path in matching_files(self._source.table):
            yield from _column(path, self._source.column)

    def fingerprint(self) -> str:
        return combined(hash_files(matching_files(self._source.table)), self._source.column)

    def describe(self) -> str:
        return f"column {self._source.column!r} of {', '.join(as_list(self._source.table))}"


def missing_column(where: object, column: str, present: Iterable[str]) -> CorpusError:
    present = list(present)
    return CorpusError(f"{where}: no column {column!r}; present: {', '.join(present)}{did_you_mean(column, present)}")


def document(value: Any, where: str, column: str) -> str | None:
    """A cell as a document; None where it is null or blank.

    Raises:
        CorpusError: the cell holds something else than text.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise CorpusError(f"{where}: column {column!r} holds {type(value).__name__}, not text")
    return value if value.strip() else None


def _column(path: Path, column: str) -> Iterator[str]:
    extension = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if extension in (".jsonl", ".ndjson"):
        return _json_column(path, column)
    if extension in (".csv", ".tsv"):
        return _csv_column(path, column, "," if extension == ".csv" else "\t")
    if extension == ".parquet" and path.suffix != ".gz":
        return _parquet_column(path, column)
    raise CorpusError(
        f"{path}: a table ends in .jsonl, .ndjson, .csv or .tsv (each also .gz) or .parquet; "
        "for plain text write corpus.source={files: ...}"
    )


def _lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_pieces(path, MAX_ROW_BYTES), start=1):
        if not line.endswith("\n") and len(line.encode()) > MAX_ROW_BYTES - 4:
            raise CorpusError(f"{path}:{number}: a line of more than {MAX_ROW_BYTES >> 20} MiB; is this a text table?")
        yield line


def _json_column(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where}: not a complete JSON value ({error}); one JSON object per line") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: a {type(row).__name__}, not a JSON object")
        if column not in row:
            raise missing_column(where, column, row)
        if (text := document(row[column], where, column)) is not None:
            yield text


def _csv_column(path: Path, column: str, delimiter: str) -> Iterator[str]:
    # The csv module's limit is one for the process; articles exceed its default of 128 KiB.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    rows = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        if column not in header:
            raise missing_column(f"{path}:1", column, header)
        position = header.index(column)
        for row in rows:
            if row and len(row) != len(header):
                raise CorpusError(f"{path}:{rows.line_num}: {len(row)} fields where the header has {len(header)}")
            if row and row[position].strip():
                yield row[position]
    except csv.Error as error:
        raise CorpusError(f"{path}:{rows.line_num}: not valid CSV ({error})") from error


def _parquet_column(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with reading(path), pq.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise missing_column(path, column, file.schema_arrow.names)
            row = 0
            for batch in file.iter_batches(batch_size=_ROWS_PER_READ, columns=[column]):
                for value in batch.column(0).to_pylist():
                    if (text := document(value, f"{path}: row {row}", column)) is not None:
                        yield text
                    row += 1
    except pa.ArrowException as error:
        raise CorpusError(f"{path}: not a complete Parquet file ({error})") from error
