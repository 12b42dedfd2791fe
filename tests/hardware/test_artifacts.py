"""Artifacts as files, and on their way between machines."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest

from flashdistill.core.errors import TargetError
from flashdistill.core.files import WriteError
from flashdistill.hardware import artifacts
from flashdistill.hardware.artifacts import (
    artifact_bytes,
    artifact_digest,
    artifact_files,
    copy_artifact,
    read_stream,
    write_stream,
)
from tests.faults_catalogue import fault


@pytest.fixture(params=["file", "external data", "directory"])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    (root / "unrelated").write_text("stays here")
    if request.param == "directory":
        (root / "model" / "deep").mkdir(parents=True)
        (root / "model" / "config.json").write_text("{}")
        (root / "model" / "deep" / "weights").write_bytes(bytes(range(256)) * 9000)
        return root / "model"
    (root / "model.onnx").write_text("graph\n{}\n")
    if request.param == "external data":
        (root / "model.onnx.data").write_bytes(b"weights")
    return root / "model.onnx"


def test_an_artifact_arrives_as_it_was(artifact: Path, tmp_path: Path) -> None:
    stream = io.BytesIO(b"")
    stream.write(b"Welcome to this machine!\n")
    write_stream(artifact, stream)
    stream.seek(0)
    for arrived in (
        read_stream(stream, tmp_path / "streamed"),
        copy_artifact(artifact, tmp_path / "copied"),
    ):
        assert arrived.name == artifact.name
        assert artifact_digest(arrived) == artifact_digest(artifact)
        assert artifact_bytes(arrived) == artifact_bytes(artifact)
        assert not (arrived.parent / "unrelated").exists()


def test_a_digest_depends_on_contents_and_names(artifact: Path) -> None:
    before = artifact_digest(artifact)
    *_, last = artifact_files(artifact).values()
    content = last.read_bytes()
    last.write_bytes(content[:-1] + b"!")
    changed = artifact_digest(artifact)
    last.write_bytes(content)
    assert artifact_digest(artifact) == before != changed
    renamed = artifact.rename(artifact.with_name("another"))
    assert artifact_digest(renamed) != before


def test_half_an_artifact_is_none(artifact: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    write_stream(artifact, stream)
    for kept in (0, len(stream.getvalue()) - 1):
        with pytest.raises(EOFError):
            read_stream(io.BytesIO(stream.getvalue()[:kept]), tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "model/../../outside"])
def test_names_stay_inside(name: str, tmp_path: Path) -> None:
    header = json.dumps({"artifact": "model", "files": {name: 1}}).encode()
    with pytest.raises(TargetError, match="leads out"):
        read_stream(io.BytesIO(header + b"\nx"), tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


@fault(3, "disk full while an export is copied", "told with the path")
def test_a_full_disk_is_said(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream = io.BytesIO()
    write_stream(artifact, stream)
    stream.seek(0)
    monkeypatch.setattr(artifacts, "_copy", full)
    with pytest.raises(WriteError, match=r"target cannot be written: No space left on device .*; make room"):
        read_stream(stream, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_sender_says_why_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no such file"):
        read_stream(io.BytesIO(b'{"error": "no such file"}\n'), tmp_path / "target")
