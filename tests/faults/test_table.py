"""What make faults counts and writes down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests import faults_table
from tests.faults_catalogue import ROWS

TESTS = """
import pytest
from tests.faults_catalogue import fault

@fault(4, "a flip", "noticed")
@pytest.mark.parametrize("x", [1, 2, 3])
def test_passes(x): pass

@fault(4, "a cut")
def test_many(record_property):
    record_property("injections", 100)

@fault(2, "a crash")
@pytest.mark.skip(reason="not here")
def test_skipped(): pass

@fault(7, "a hog", "one trial failed")
@pytest.mark.parametrize("x", [1, 2])
def test_fails(x): assert x == 1

def test_no_fault(): pass
"""


def counted(directory: Path, *arguments: str) -> list[dict[str, object]]:
    directory.mkdir(exist_ok=True)
    (directory / "test_some.py").write_text(TESTS, encoding="utf-8")
    options = [
        "-p",
        "tests.faults_plugin",
        "-m",
        "faults",
        "--faults-json",
        "out/faults.json",
        "-p",
        "no:cacheprovider",
    ]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *options,
            *arguments,
            "--rootdir",
            directory,
            directory / "test_some.py",
        ],
        check=False,
        capture_output=True,
        cwd=directory,
        env={"PYTHONPATH": str(Path.cwd()), "PATH": ""},
    )
    return json.loads((directory / "out" / "faults.json").read_text(encoding="utf-8"))


def test_from_marks_to_the_table(tmp_path: Path) -> None:
    one_process, two_processes = counted(tmp_path / "one"), counted(tmp_path / "two", "-n", "2")
    for found in (one_process, two_processes):
        for one in found:
            del one["seconds"]
    assert one_process == two_processes
    lines = faults_table.table(one_process).splitlines()
    assert lines[2:] == [
        f"| **2** | **{ROWS[2].title}** | **0** | |",
        "| | a crash | 0 | not tried on this machine |",
        f"| **4** | **{ROWS[4].title}** | **103** | |",
        f"| | a cut | 100 | {ROWS[4].expected} |",
        "| | a flip | 3 | noticed |",
        f"| **7** | **{ROWS[7].title}** | **2** | |",
        "| | a hog | 2 | one trial failed; **FAILED in 1 of 2 tests** |",
        "",
        "Not injected: "
        + ", ".join(f"{row} ({each.title})" for row, each in ROWS.items() if row not in (2, 4, 7))
        + ".",
    ]


def test_shards_are_a_partition(tmp_path: Path) -> None:
    whole = {one["test"] for one in counted(tmp_path / "whole")}
    parts = [[one["test"] for one in counted(tmp_path / str(share), f"--faults-shard={share}/2")] for share in (1, 2)]
    assert sorted(map(str, [*parts[0], *parts[1]])) == sorted(map(str, whole))


def test_the_table_goes_between_its_marks(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{faults_table.BEGIN}\nold\n{faults_table.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(faults_table, "DOCUMENT", document)
    found = [{"row": 4, "injected": "a flip", "happened": "noticed", "outcome": "passed", "injections": 2}]
    (tmp_path / "a.json").write_text(json.dumps(found), encoding="utf-8")
    assert faults_table.main([str(tmp_path / "a.json")]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{faults_table.BEGIN}\n\n| # |")
    assert text.endswith(f"\n\n{faults_table.END}\nafter\n")
    assert "old" not in text
    assert "| | a flip | 2 | noticed |" in text


def test_the_document_has_a_place_for_the_table() -> None:
    text = Path("docs/reliability.md").read_text(encoding="utf-8")
    assert text.count(faults_table.BEGIN) == text.count(faults_table.END) == 1
