"""Raw samples: every timed call of a measurement, in one Parquet file from which it can be computed again.

One row per call: ``pass``, ``round`` (counting repeated ones), ``position`` (0 or 1: which block of
the round it was), ``model`` (``candidate`` or ``reference``), ``call``, ``wall_ns``, ``cpu_ns``,
``interrupted`` (its block was) and ``counted`` (its round was not repeated). The dropped first call
of a block is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flashdistill.core.files import atomic_path
from flashdistill.hardware.statistics import Block, Round

_SCHEMA = pa.schema(
    {
        "pass": pa.uint16(),
        "round": pa.uint32(),
        "position": pa.uint8(),
        "model": pa.dictionary(pa.int8(), pa.string()),
        "call": pa.uint16(),
        "wall_ns": pa.int64(),
        "cpu_ns": pa.int64(),
        "interrupted": pa.bool_(),
        "counted": pa.bool_(),
    }
)
_MODELS = ("candidate", "reference")
_METADATA = b"flashdistill"


@dataclass(frozen=True)
class Samples:
    """What `read_samples` finds.

    Attributes:
        passes: all rounds in the order in which they were made, as `Comparison.attempts` has them.
        metadata: what was handed to `write_samples`.
    """

    passes: list[list[Round]]
    metadata: Mapping[str, Any]


def write_samples(path: Path, passes: list[list[Round]], metadata: Mapping[str, Any]) -> None:
    """Write the rounds of a comparison (`Comparison.attempts`); the file is complete or absent.

    Args:
        metadata: anything that JSON can say (environment, settings, architecture); kept in the schema.
    """
    blocks = [_columns(*place) for place in _blocks(passes)]
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in _SCHEMA.names}
    columns["model"] = pa.DictionaryArray.from_arrays(pa.array(columns["model"], pa.int8()), list(_MODELS))
    described = _SCHEMA.with_metadata({_METADATA: json.dumps(metadata, allow_nan=False).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns, schema=described), temporary, compression="zstd")


def read_samples(path: Path) -> Samples:
    """The rounds and the metadata of a file, equal to what was written.

    Raises:
        ValueError: the file holds no samples of a measurement.
    """
    table = pq.ParquetFile(path).read()
    described = (table.schema.metadata or {}).get(_METADATA)
    if described is None or table.schema.names != _SCHEMA.names:
        raise ValueError(f"{path} holds no samples of a measurement")
    rows = list(zip(*(table.column(name).to_pylist() for name in _SCHEMA.names), strict=True))
    passes = [
        [_round(list(turn)) for _, turn in groupby(one_pass, key=lambda row: row[1])]
        for _, one_pass in groupby(rows, key=lambda row: row[0])
    ]
    return Samples(passes, json.loads(described))


def _blocks(passes: list[list[Round]]) -> Iterator[tuple[int, int, int, str, Block, Round]]:
    """Every block with its place: pass, round, position, model."""
    for number, rounds in enumerate(passes):
        for index, turn in enumerate(rounds):
            for position, model in enumerate(_MODELS if turn.candidate_first else reversed(_MODELS)):
                yield number, index, position, model, getattr(turn, model), turn


def _columns(number: int, index: int, position: int, model: str, block: Block, turn: Round) -> dict[str, Any]:
    calls = len(block.wall_ms)
    same = {
        "pass": number,
        "round": index,
        "position": position,
        "model": _MODELS.index(model),
        "interrupted": block.interrupted,
        "counted": not turn.repeated,
    }
    times = {"call": np.arange(calls), "wall_ns": _nanoseconds(block.wall_ms), "cpu_ns": _nanoseconds(block.cpu_ms)}
    return {name: np.full(calls, value) for name, value in same.items()} | times


def _nanoseconds(milliseconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """The whole nanoseconds that a block was made from."""
    return np.rint(milliseconds * 1e6).astype(np.int64)


def _round(rows: list[tuple]) -> Round:
    blocks = {}
    for model, calls in groupby(rows, key=lambda row: row[3]):
        _, _, _, _, _, wall, cpu, interrupted, _ = zip(*calls, strict=True)
        blocks[model] = Block.from_nanoseconds(wall, cpu).flagged(interrupted[0])
    return Round(**blocks, candidate_first=rows[0][3] == _MODELS[0], repeated=not rows[0][8])
