"""No flipped bit and no cut of a kept file goes unnoticed, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flashdistill.core.errors import TeacherError
from flashdistill.core.sums import SUMS, damaged_files, write_sums
from flashdistill.distillation.signal_files import SignalFiles
from flashdistill.models.foreign import locate
from flashdistill.training.checkpoint import CheckpointStore, Snapshot
from tests.faults_catalogue import fault

Record = Callable[[str, object], None]


def damaged(path: Path, every: int = 1) -> Iterator[None]:
    """The file with one bit of each byte flipped in turn, then cut at each length; whole again in between."""
    content = path.read_bytes()
    for place in range(0, len(content), every):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        yield
        path.write_bytes(content[:place])
        yield
    path.write_bytes(content)


@fault(4, "one bit flipped, or the rest cut off, at each byte of a checkpoint's files", "the checkpoint before is used")
@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_not_used(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    store = CheckpointStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *args, **kwargs: None)  # keep the one before
        for step in (1, 2):
            store.save(Snapshot({"weight": torch.full((4,), float(step))}, {"step": step, "loss": 0.125}))
    injections = 0
    for _ in damaged(sorted(tmp_path.iterdir())[-1] / file):
        found = store.load_latest()
        assert found is not None
        # A blank of the manifest may be another blank; everything that is read is as it was.
        step = found.position["step"]
        assert (found.position, found.tensors["weight"][0]) == ({"step": step, "loss": 0.125}, step)
        injections += step == 1
    newest = store.load_latest()
    assert newest is not None
    assert newest.position["step"] == 2, "whole again"
    assert injections > 150
    record_property("injections", injections)


@fault(4, "one bit flipped, or the rest cut off, in the teacher's kept answers", "they are computed again")
def test_damaged_signals_are_not_used(tmp_path: Path, record_property: Record) -> None:
    whole = {"features": torch.arange(8.0)}
    SignalFiles(tmp_path, 1 << 20, "teacher").write("batch", whole)
    [path] = tmp_path.glob("*.safetensors")
    injections = 0
    for _ in damaged(path):
        found = SignalFiles(tmp_path, 1 << 20, "teacher").read("batch", ["features"])
        assert found is None or torch.equal(found["features"], whole["features"])
        injections += found is None
    assert injections > path.stat().st_size, "a blank of the header may be another character"
    record_property("injections", injections)


@fault(4, "one bit flipped, or the rest cut off, in a delivered model or a prepared teacher", "refused, or made again")
def test_a_damaged_model_is_not_used(tmp_path: Path, record_property: Record) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (tmp_path / "README.md").write_text("a card", encoding="utf-8")
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "model.onnx").write_bytes(b"graph")
    save_file({"weight": torch.arange(4.0)}, tmp_path / "model.safetensors")
    write_sums(tmp_path, but=["README.md"])
    injections = 0
    for name in ("model.safetensors", "config.json", "serving/model.onnx"):
        for _ in damaged(tmp_path / name):
            assert damaged_files(tmp_path) == [name]
            with pytest.raises(TeacherError, match=f"{name} is not the file that was written"):
                locate(str(tmp_path))
            injections += 1
    record_property("injections", injections)
    (tmp_path / "README.md").write_text("another card", encoding="utf-8")
    assert locate(str(tmp_path)) == tmp_path
    (tmp_path / "serving" / "model.onnx").unlink()
    assert damaged_files(tmp_path) == [], "what is gone is not used"
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / SUMS).unlink()
    assert locate(str(tmp_path)) == tmp_path, "changed on purpose"
