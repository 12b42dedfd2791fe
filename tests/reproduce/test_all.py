"""All scripts one after the other, and the page that collects what they wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reproduce import __main__ as everything

PAPERS = {"table2", "table3", "table4", "figure3", "figure4", "figure5", "figure6"}


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str, status: dict[str, int] | None = None) -> list[list[str]]:
    """The commands that a call runs, each replaced by its exit status."""
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=(status or {}).get(command[2].removeprefix("reproduce."), 0))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["reproduce", *arguments])
    everything.main()
    return commands


def test_every_table_and_figure_has_a_script() -> None:
    assert set(everything.SCRIPTS) == PAPERS
    for name in everything.SCRIPTS:
        assert (everything.ROOT / "reproduce" / f"{name}.py").is_file()


def test_scale_and_places_reach_every_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands = called(monkeypatch, "--scale", "small", "--work", "somewhere", "--output", str(tmp_path))
    by_name = {command[2].removeprefix("reproduce."): command[3:] for command in commands}
    assert set(by_name) == PAPERS
    assert by_name["table2"] == ["--output", str(tmp_path), "--scale", "small", "--work", "somewhere"]
    assert by_name["figure4"] == ["--output", str(tmp_path), "--seeds", "20"]
    assert by_name["figure3"] == ["--output", str(tmp_path), "--", "--problems", "measured", "--seeds", "20"]


def test_a_dry_run_starts_no_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands = called(monkeypatch, "--dry-run", "--output", str(tmp_path / "new"))
    assert {command[2] for command in commands} == {f"reproduce.{name}" for name in PAPERS - {"figure3", "figure4"}}
    assert all("--dry-run" in command for command in commands)
    assert not (tmp_path / "new").exists()


def test_one_failure_does_not_keep_the_others_from_their_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="failed: figure5; the same command"):
        called(monkeypatch, "--output", str(tmp_path), status={"figure5": 1})
    assert (tmp_path / everything.COLLECTION).is_file()


def test_who_stops_one_stops_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        called(monkeypatch, "--output", str(tmp_path), status={"table2": 130})
    assert stopped.value.code == 130
    assert not (tmp_path / everything.COLLECTION).exists()


def test_the_page_shows_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "figure4.md").write_text("One objective is not enough.\n")
    (tmp_path / "table2.md").write_text("| a |\n|---|\n\nAll agree.\n")
    text = everything.collect(tmp_path, "mini").read_text()
    assert text.index("All agree.") < text.index("One objective is not enough.")
    assert "(table2.png)" in text
    assert "figure6" not in text
