from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.run_directory import RunDirectory
from tests.faults_catalogue import fault


def test_state_is_remembered_and_added_to(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.state() == {}
    directory.remember(identity="a", costs={"teacher": 1.0})
    directory.remember(costs={"teacher": 2.0})
    assert RunDirectory(tmp_path).state() == {"identity": "a", "costs": {"teacher": 2.0}}


@fault(4, "run's state damaged", "told, with what to do")
def test_damaged_state_is_told(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        RunDirectory(tmp_path).state()


@fault(8, "a second lock of a run directory")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with directory.locked(), pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()} on"):
        RunDirectory(tmp_path).locked().__enter__()
    with directory.locked():
        pass


@fault(15, "output directory that is a file", "one clear message")
def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot be used"):
        RunDirectory(tmp_path / "file").create()
