"""The figures made from replayed searches: what they say follows from the numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search_replay.replay import problem_of
from flashdistill.core.files import write_json
from reproduce import figure3, figure4
from tests.benchmarks.conftest import WriteTable

MEANS = {"bayesian": (20, 40), "bayesian-beat": (10, 15), "firefly": (60, 300), "random": (70, 210)}


def record(means: dict[str, tuple[int, int]]) -> dict[str, Any]:
    def counted(mean: int) -> dict[str, float]:
        return {"mean": mean, "low": 0.9 * mean, "high": 1.1 * mean, "censored": 0, "runs": 4}

    curve = {"mean": [0.0, 1.0, 2.0], "low": [0.0, 0.5, 1.5], "high": [0.0, 1.5, 2.5]}
    methods = {
        name: {
            "label": name,
            "iterations_to_1": counted(first),
            "iterations_to_3": counted(third),
            "winners": curve,
            "hypervolume": curve,
        }
        for name, (first, third) in means.items()
    }
    facts = {"winners": [7], "architectures": [576], "random_expected": {"1": 72.0, "3": 216.0}}
    return {
        "headline": {"problem": "measured", "density": 0.012},
        "problems": {"measured": {"0.012": {**facts, "methods": methods}}},
    }


def test_figure3_says_what_agrees_with_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "search.json", record(MEANS))
    monkeypatch.setattr(sys, "argv", ["figure3", "--json", str(tmp_path / "search.json"), "--output", str(tmp_path)])
    figure3.main()
    assert (tmp_path / "figure3.png").stat().st_size > 20_000
    reading = json.loads((tmp_path / "figure3.json").read_text(encoding="utf-8"))["reading"]
    assert reading + "\n" == (tmp_path / "figure3.md").read_text(encoding="utf-8")
    agree, differ = reading.split("In another order")
    assert "bayesian over random to the third: 0.19 (paper 0.41)" in agree
    assert "firefly over random to the third: 1.43 (paper 1.10)" in agree
    assert "firefly over random to the first: 0.86 (paper 0.55)" in differ, "the intervals overlap"
    assert "bayesian-beat 10 and 15 [14, 16]" in reading


def test_figure3_names_what_a_file_lacks() -> None:
    found = record({name: means for name, means in MEANS.items() if name != "firefly"})
    with pytest.raises(SystemExit, match="lacks firefly"):
        figure3.chosen(found, None)
    with pytest.raises(SystemExit, match="no problem 'synthetic'.*measured"):
        figure3.chosen(found, "synthetic")


def test_figure4_compares_three_searches(
    tmp_path: Path, write_table: WriteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "table")
    problem_of.cache_clear()
    options = ["--table", str(tmp_path / "table"), "--seeds", "1", "--trials", "10", "--density", "0.1"]
    monkeypatch.setattr(sys, "argv", ["figure4", *options, "--output", str(tmp_path)])
    figure4.main()
    assert (tmp_path / "figure4.png").stat().st_size > 20_000
    searches = json.loads((tmp_path / "figure4.json").read_text(encoding="utf-8"))["searches"]
    assert set(searches) == {"both", "accuracy", "latency"}
    assert all(len(set(found["first_seed"])) == 11 for found in searches.values())
    both, accuracy, latency = (searches[name] for name in ("both", "accuracy", "latency"))
    assert accuracy["best_accuracy"]["mean"] >= latency["best_accuracy"]["mean"]
    assert latency["lowest_latency_ms"]["mean"] <= accuracy["lowest_latency_ms"]["mean"]
    assert 0 < both["hypervolume"]["mean"] <= 1


def test_figure4_needs_a_problem_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem_of.cache_clear()
    monkeypatch.setattr(sys, "argv", ["figure4", "--output", str(tmp_path), "--table", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="table.parquet is missing"):
        figure4.main()
    monkeypatch.setattr(sys, "argv", ["figure4", "--output", str(tmp_path), "--problem", "real"])
    with pytest.raises(SystemExit, match="no problem 'real'"):
        figure4.main()


def test_the_corners_of_a_front_are_a_staircase() -> None:
    latency, accuracy = figure4._staircase(np.array([[0.4, 3.0], [0.2, 1.0], [0.1, 2.0], [0.3, 2.0]]))
    assert latency.tolist() == [1.0, 2.0, 2.0, 3.0, 3.0]
    assert accuracy == pytest.approx([20, 20, 30, 30, 40])
