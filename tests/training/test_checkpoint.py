from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from flashdistill.training.checkpoint import MANIFEST, TENSORS, CheckpointStore, Snapshot, restore_random
from flashdistill.training.loop import LossCurve, snapshot
from tests.faults_catalogue import fault


def saved(value: float) -> Snapshot:
    return Snapshot({"weight": torch.full((3,), value)}, {"phase": "a", "step": int(value)})


def test_the_newest_is_loaded_and_older_ones_are_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.load_latest() is None
    for value in (1.0, 2.0):
        store.save(saved(value))
    found = store.load_latest()
    assert found is not None
    assert found.position == {"phase": "a", "step": 2}
    assert torch.equal(found.tensors["weight"], torch.full((3,), 2.0))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "no manifest", "half a manifest"])
@fault(4, "checkpoint with a flipped bit, a cut, or no manifest", "the checkpoint before is used")
def test_a_damaged_checkpoint_is_not_used(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(saved(1.0))
    monkeypatch.setattr("shutil.rmtree", lambda *args, **kwargs: None)  # keep the one before
    store.save(saved(2.0))
    newest = sorted(tmp_path.iterdir())[-1]
    tensors, manifest = newest / TENSORS, newest / MANIFEST
    content = bytearray(tensors.read_bytes())
    if damage == "flip":
        content[-2] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut":
        tensors.write_bytes(content[:-4])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:10])
    found = store.load_latest()
    assert found is not None
    assert found.position["step"] == 1


def test_random_states_are_part_of_a_checkpoint() -> None:
    tensors = snapshot("x", {}, 0).tensors
    expected = torch.rand(3)
    restore_random(tensors)
    assert torch.equal(torch.rand(3), expected)


def test_tied_weights_are_kept_once() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model[1].weight = model[0].weight
    tensors = snapshot("x", {"model": model}, 0, LossCurve()).tensors
    assert sorted(name for name in tensors if name.startswith("model")) == [
        "model.0.bias",
        "model.0.weight",
        "model.1.bias",
    ]
