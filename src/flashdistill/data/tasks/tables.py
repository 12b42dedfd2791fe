"""Rows of the user's CSV, TSV, JSONL and Parquet files, each with the place it stands at."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashdistill.core.errors import InputError
from flashdistill.core.registry import did_you_mean
from flashdistill.data.readers.files import read_pieces, reading
from flashdistill.data.readers.tables import MAX_ROW_BYTES, missing_column

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True)
class Table:
    """Some columns of a file.

    Attributes:
        columns: values by column, n each; text where the format is text (CSV, TSV).
        numbers: [n] the line on which each row ends, counted from 1, or its index in a Parquet file.
    """

    path: Path
    columns: Mapping[str, list[Any]]
    numbers: list[int]

    @property
    def has_lines(self) -> bool:
        return self.path.suffix != ".parquet"

    def place(self, row: int) -> str:
        return f"{self.path}:{self.numbers[row]}" if self.has_lines else f"{self.path}, row {self.numbers[row]}"


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(EXTENSIONS)


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    """Read some columns of a file, whose format its extension names.

    Columns in ``optional`` are there only if the file has them; a JSON object that lacks one has
    null for it.

    Raises:
        InputError: no such file, another format, a missing column, or a broken row; names the line.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r} (relative to {Path.cwd()})")
    extension = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if not is_table(path):
        raise InputError(f"{path}: rows are read from {', '.join(EXTENSIONS[:5])} (text also .gz)")
    if extension == ".parquet":
        return _read_parquet(path, required, optional)
    delimiter = {".csv": ",", ".tsv": "\t"}.get(extension)
    rows = _json_rows(path, required) if delimiter is None else _csv_rows(path, delimiter, required)
    read = list(rows)
    present = [name for name in optional if any(name in row for _, row in read)]
    columns = {name: [row.get(name) for _, row in read] for name in (*required, *present)}
    return Table(path, columns, [line for line, _ in read])


def _json_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(read_pieces(path, MAX_ROW_BYTES), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path}:{line}: not a complete JSON value ({error}); one JSON object per line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}:{line}: a {type(row).__name__}, not a JSON object")
        for name in required:
            if name not in row:
                raise missing_column(f"{path}:{line}", name, row)
        yield line, row


def _csv_rows(path: Path, delimiter: str, required: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # The limit is one for the process; contexts may exceed its default of 128 KiB.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    rows = csv.reader(read_pieces(path, MAX_ROW_BYTES), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        for name in required:
            if name not in header:
                raise missing_column(f"{path}:1", name, header)
        if repeated := {name for name in header if header.count(name) > 1}.intersection(required):
            raise InputError(f"{path}:1: several columns are called {sorted(repeated)[0]!r}")
        for row in rows:
            if row and len(row) != len(header):
                raise InputError(f"{path}:{rows.line_num}: {len(row)} fields where the header has {len(header)}")
            if row:
                yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: not valid CSV ({error})") from error


def _read_parquet(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with reading(path), pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            for name in required:
                if name not in present:
                    raise InputError(
                        f"{path}: no column {name!r}; present: {', '.join(present)}{did_you_mean(name, present)}"
                    )
            names = [name for name in (*required, *optional) if name in present]
            columns = file.read(columns=names).to_pydict()
            return Table(path, columns, list(range(file.metadata.num_rows)))
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a complete Parquet file ({error})") from error
