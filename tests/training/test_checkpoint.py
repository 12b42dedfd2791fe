from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn

from flashdistill.training.checkpoint import MANIFEST, TENSORS, CheckpointStore, Snapshot
from flashdistill.training.loop import LossCurve, Phase, run_phase, snapshot
from flashdistill.training.optimizers import Schedule, build_optimizer


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


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_an_optimiser_continues_exactly(tmp_path: Path, name: str) -> None:
    if name == "lamb":
        pytest.importorskip("pytorch_optimizer")

    def training(steps: int, store: CheckpointStore | None, resume: Snapshot | None) -> nn.Linear:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        data = torch.randn(10, 5, 4, generator=torch.Generator().manual_seed(1))
        parameters = list(model.parameters())
        phase = Phase(
            "phase",
            lambda step: model(data[step]).square().mean(),
            parameters,
            build_optimizer(name, parameters, 0.1, 0.01),  # type: ignore[arg-type]
            Schedule(10, 0.1, 2),
            gradient_clip=0.5,
        )
        phase.schedule = Schedule(steps, 0.1, 2) if steps == 10 else phase.schedule
        if steps < 10:
            original = phase.loss

            def loss(step: int) -> torch.Tensor:
                if step == steps:
                    raise KeyboardInterrupt
                return original(step)

            phase.loss = loss
        with contextlib.suppress(KeyboardInterrupt):
            run_phase(phase, {"model": model}, store, resume)
        return model

    expected = training(10, None, None)
    store = CheckpointStore(tmp_path, every_seconds=0)
    training(6, store, None)
    resumed = training(10, store, store.load_latest())
    assert torch.equal(expected.weight, resumed.weight)
    assert torch.equal(expected.bias, resumed.bias)


def test_tied_weights_are_kept_once() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model[1].weight = model[0].weight
    tensors = snapshot("x", {"model": model}, 0, LossCurve()).tensors
    assert sorted(tensors) == ["model.0.bias", "model.0.weight", "model.1.bias"]
