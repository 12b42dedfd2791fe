"""Output directories that cannot be written to, or are links, or have odd names."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.files import WriteError, read_json, writing
from flashdistill.core.run_directory import RunDirectory
from tests.faults.children import in_child
from tests.faults_catalogue import fault


def as_somebody_else(work: Callable[[], None]) -> None:
    """Work without root's right to write everywhere; the place must be open to others."""

    def demoted() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        work()

    assert in_child(demoted) == 0


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A directory that nobody else may write to, below one that everybody may enter."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o555)
    place = tmp_path / "closed"
    place.mkdir()
    place.chmod(0o555)
    return place


@fault(15, "output directory that may not be written to", "one clear message")
@pytest.mark.parametrize("name", [".", "run", "deep/run"])
def test_a_place_that_may_not_be_written_to(closed: Path, name: str) -> None:
    def create() -> None:
        with pytest.raises(RunDirectoryError, match=r"closed.* cannot be used \(.*\); choose another with --output"):
            RunDirectory(closed / name).create()

    as_somebody_else(create)


@fault(15, "file system that has become read-only", "stopped, with the path")
def test_a_file_system_that_turns_read_only(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot be written: Read-only file system"), writing(tmp_path / "state.json"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@fault(15, "blanks, quotes, brackets, a line break and unicode in the output directory's name", "works")
@pytest.mark.parametrize("name", ["two words", "[a-z]*? {x}", "räume 実行 🚀", "a'b\"c", "line\nbreak", "-rf"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    directory = RunDirectory(tmp_path / name)
    directory.create()
    with directory.locked():
        directory.remember(started_trials=1)
    assert RunDirectory(tmp_path / name).state() == {"started_trials": 1}


@fault(15, "output directory that is a link", "works, and the link stays one")
def test_a_link_to_another_disk(tmp_path: Path) -> None:
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    link.symlink_to(elsewhere)
    directory = RunDirectory(link)
    directory.create()
    with directory.locked(), pytest.raises(RunDirectoryError, match="in use"), RunDirectory(elsewhere).locked():
        pass
    directory.remember(started_trials=1)
    assert link.is_symlink()
    assert read_json(elsewhere / "state.json") == {"started_trials": 1}


@fault(15, "output directory that is a link to nothing, or to itself", "one clear message")
@pytest.mark.parametrize("target", ["nowhere", "run"])
def test_a_link_that_leads_nowhere(tmp_path: Path, target: str) -> None:
    (tmp_path / "run").symlink_to(tmp_path / target)
    with pytest.raises(RunDirectoryError, match="cannot be used"):
        RunDirectory(tmp_path / "run").create()
