from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from flashdistill.core.files import WriteError, atomic_path, read_json, read_sealed_json, write_sealed_json


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "deep" / "file") as temporary:
        temporary.write_text("new")
    (tmp_path / "other").touch()
    assert (tmp_path / "deep" / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_sealed_file_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    written = {"step": 3, "curve": [(0, 0.1), (1, 1e-9)], "by number": {10: "ü", 9: None}}
    write_sealed_json(path, written)
    expected = {"step": 3, "curve": [[0, 0.1], [1, 1e-9]], "by number": {"10": "ü", "9": None}}
    assert read_sealed_json(path) == expected
    path.write_text(path.read_text().replace('"step": 3', '"step": 2'))
    assert read_json(path)["step"] == 2
    with pytest.raises(ValueError, match=r"sealed\.json is damaged"):
        read_sealed_json(path)


def test_no_seal_is_a_broken_seal(tmp_path: Path) -> None:
    for text in ("{}", "[]", '{"step": 1}'):
        (tmp_path / "file").write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            read_sealed_json(tmp_path / "file")


def test_a_write_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(WriteError("x cannot be written")))
    assert isinstance(error, OSError)
    assert str(error) == "x cannot be written"
    assert error.exit_code == 1
