"""The scaling benchmark, small: its figures by hand, and that it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.scaling_simulation import Recorded, VirtualTime, ideal_seconds, search


def test_the_ideal_by_hand() -> None:
    """The first alone till 2; then 3, 1, 4 on two workers: 2 + 3 = 5, and 2 + 1 + 4 = 7."""
    assert ideal_seconds([2, 3, 1, 4], 2) == 7
    assert ideal_seconds([2, 3, 1, 4], 1) == 10
    assert ideal_seconds([2, 3, 1, 4], 64) == 6


@pytest.fixture
def table(tmp_path: Path, write_table: Callable[..., Any]) -> Path:
    write_table(tmp_path / "table")
    return tmp_path / "table"


def test_virtual_time_is_the_ideal(table: Path, tmp_path: Path) -> None:
    recorded = Recorded.read(table)
    sequential, parallel = VirtualTime(1), VirtualTime(4)
    one = search(recorded, sequential, tmp_path / "one", algorithm="random", trials=12, seed=3)
    four = search(recorded, parallel, tmp_path / "four", algorithm="random", trials=12, seed=3)
    for found, executor in ((one, sequential), (four, parallel)):
        durations = [recorded.seconds[architecture] for architecture in found.order]
        assert executor.now == pytest.approx(ideal_seconds(durations, executor.places))
        assert len(set(found.order)) == 13
        assert found.order[0] == recorded.problem.baseline
    assert parallel.now < sequential.now / 2


def test_quality_is_compared_seed_by_seed() -> None:
    """The differences of 0.6 to 0.5 and of 0.7 to 0.9 are 0.1 and -0.2."""
    rows = [
        {"by_seed": [0.5, 0.9], "virtual_seconds": 30.0},
        {"by_seed": [0.6, 0.7], "virtual_seconds": 10.0},
    ]
    scaling.compare(rows)
    assert (rows[0]["difference"], rows[0]["speedup"]) == (0, 1)
    assert rows[1]["difference"] == pytest.approx(-0.05)
    assert rows[1]["difference_stderr"] == pytest.approx(0.15)
    assert rows[1]["speedup"] == 3


def test_it_writes_what_it_measures(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--table", str(table), "--output", str(tmp_path / "out"), "--work", str(tmp_path)]
    sizes = ["--workers", "2", "--trials", "4", "--scale", "0.005", "--quality-trials", "6", "--seeds", "2"]
    assert scaling.main([*arguments, *sizes, "--algorithm", "random"]) == 0
    record = json.loads((tmp_path / "out" / "scaling.json").read_text())
    [row] = record["throughput"]["rows"]
    assert (row["workers"], row["trials"]) == (2, 5)
    assert 0 < row["efficiency"] < row["efficiency_unscaled"] < row["efficiency_minutes"] < 1
    assert row["throughput"] == pytest.approx(row["efficiency"] * row["ideal"])
    assert row["overhead"] == pytest.approx(row["coordinator"] * row["workers"])
    assert 0 < record["quality"]["rows"][0]["hypervolume"] < 1
    picture = tmp_path / "out" / "scaling.png"
    assert picture.stat().st_size > 10_000
    assert "Throughput" in capsys.readouterr().out
    assert not list(tmp_path.glob("scaling-*"))

    # One part alone: what is known of the other stays, and is in the picture.
    picture.unlink()
    again = ["--parts", "quality", "--workers", "1", "2", "--quality-trials", "5", "--seeds", "2"]
    assert scaling.main([*arguments, *again, "--algorithm", "random"]) == 0
    updated = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert updated["throughput"] == record["throughput"]
    assert [row["workers"] for row in updated["quality"]["rows"]] == [1, 2]
    assert updated["quality"]["settings"]["quality_trials"] == 5
    assert picture.exists()
