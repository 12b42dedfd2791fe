"""A crash at any point of writing leaves what was there before, or what was being written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from flashdistill.core.files import read_json, write_json
from flashdistill.training.checkpoint import CheckpointStore, Snapshot
from tests.faults.children import crash_at_every_change
from tests.faults_catalogue import fault

Record = Callable[[str, object], None]


def snapshot(step: int) -> Snapshot:
    return Snapshot({"weight": torch.full((1000,), float(step))}, {"step": step})


@fault(2, "crash before each change on disk while a checkpoint is written")
def test_a_checkpoint_is_there_whenever_the_next_one_breaks_off(tmp_path: Path, record_property: Record) -> None:
    directory = tmp_path / "checkpoints"
    seen = set()

    def prepare() -> None:
        shutil.rmtree(directory, ignore_errors=True)
        CheckpointStore(directory).save(snapshot(1))

    def judge() -> None:
        store = CheckpointStore(directory)
        found = store.load_latest()
        assert found is not None, "one interval lost at most"
        assert torch.equal(found.tensors["weight"], snapshot(found.position["step"]).tensors["weight"])
        seen.add(found.position["step"])
        store.save(snapshot(3))
        assert [path.name for path in directory.iterdir()] == [f"step-{store._numbers()[-1]:08d}"]
        assert len(list(directory.rglob("*"))) == 3, "nothing of the crash takes space for long"

    kills = crash_at_every_change(directory, prepare, lambda: CheckpointStore(directory).save(snapshot(2)), judge)
    assert kills > 10
    assert seen == {1, 2}
    record_property("injections", kills)


@fault(2, "crash before each change on disk while a run's state is written", "the state before or the new one")
def test_a_state_is_the_old_one_or_the_new_one(tmp_path: Path, record_property: Record) -> None:
    path = tmp_path / "state.json"
    seen = set()
    kills = crash_at_every_change(
        tmp_path,
        prepare=lambda: write_json(path, {"trials": 1}),
        work=lambda: write_json(path, {"trials": 2}),
        judge=lambda: seen.add(read_json(path)["trials"]),
    )
    assert kills >= 5
    assert seen == {1, 2}
    record_property("injections", kills)
