"""Raw samples: what was written comes back, and with it the result."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashdistill.hardware.protocol import log_ratio
from flashdistill.hardware.samples import read_samples, write_samples
from flashdistill.hardware.statistics import Block, Clock, Round

METADATA = {"environment": {"machine_id": "m"}, "settings": {"threads": 1}, "architecture": "512_128_4_512_4"}


@pytest.fixture
def passes() -> list[list[Round]]:
    random = np.random.default_rng(0)

    def block(level: int, interrupted: bool = False) -> Block:
        wall = random.integers(level, 2 * level, size=3)
        return Block.from_nanoseconds(wall.tolist(), (wall // 3).tolist()).flagged(interrupted)

    def turn(index: int) -> Round:
        spoiled = index == 2
        return Round(block(3_000_001), block(1_999_999, spoiled), candidate_first=index % 2 == 0, repeated=spoiled)

    return [[turn(index) for index in range(5)] for _ in range(6)]


@pytest.mark.parametrize("clock", ["cpu", "wall"])
def test_the_result_can_be_computed_again_exactly(clock: Clock, passes: list[list[Round]], tmp_path: Path) -> None:
    write_samples(tmp_path / "s.parquet", passes, METADATA)
    samples = read_samples(tmp_path / "s.parquet")
    assert log_ratio(samples.passes, clock) == log_ratio(passes, clock)
    assert samples.metadata == METADATA


def test_everything_comes_back(passes: list[list[Round]], tmp_path: Path) -> None:
    write_samples(tmp_path / "s.parquet", passes, METADATA)
    again = read_samples(tmp_path / "s.parquet").passes
    assert [len(rounds) for rounds in again] == [5] * 6
    for before, after in zip(chain(*passes), chain(*again), strict=True):
        assert (before.candidate_first, before.repeated) == (after.candidate_first, after.repeated)
        for model in ("candidate", "reference"):
            one, other = getattr(before, model), getattr(after, model)
            np.testing.assert_array_equal(one.wall_ms, other.wall_ms)
            np.testing.assert_array_equal(one.cpu_ms, other.cpu_ms)
            assert one.interrupted == other.interrupted


def test_one_row_per_call_in_the_order_of_the_calls(passes: list[list[Round]], tmp_path: Path) -> None:
    write_samples(tmp_path / "s.parquet", passes, METADATA)
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.num_rows == 6 * 5 * 2 * 3
    assert table.column_names == [
        "pass",
        "round",
        "position",
        "model",
        "call",
        "wall_ns",
        "cpu_ns",
        "interrupted",
        "counted",
    ]
    rows = table.slice(0, 9).to_pylist()
    assert [row["model"] for row in rows] == ["candidate"] * 3 + ["reference"] * 6
    assert [row["position"] for row in rows] == [0] * 3 + [1] * 3 + [0] * 3
    assert [row["call"] for row in rows] == [0, 1, 2] * 3
    assert [row["round"] for row in rows] == [0] * 6 + [1] * 3
    assert rows[0]["wall_ns"] == round(passes[0][0].candidate.wall_ms[0] * 1e6)
    spoiled = table.slice(2 * 6, 6).to_pylist()
    assert not any(row["counted"] for row in spoiled)
    assert [row["interrupted"] for row in spoiled] == [row["model"] == "reference" for row in spoiled]
    assert pq.ParquetFile(tmp_path / "s.parquet").metadata.row_group(0).column(5).compression == "ZSTD"


def test_complete_or_absent(passes: list[list[Round]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_samples(tmp_path / "s.parquet", passes, {"not a number": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"pass": [1]}), path)
    with pytest.raises(ValueError, match="holds no samples"):
        read_samples(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="arquet"):
        read_samples(path)
