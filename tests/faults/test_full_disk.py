"""A disk without room: stopped with path and bytes, and nothing of what was there before is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flashdistill.core.files import WriteError, atomic_path, read_json, write_json, writing
from flashdistill.training.checkpoint import CheckpointStore, Snapshot
from tests.faults.children import with_files_of_at_most
from tests.faults.commands import prepare
from tests.faults_catalogue import fault

MESSAGE = r"{}.* cannot be written: File too large \(after [\d,]+ bytes; [\d,]+ bytes are free there\); make room"


@fault(3, "no room for a checkpoint", "stopped with path and bytes; the checkpoint before is used")
@pytest.mark.parametrize("room", [0, 10, 4000])
def test_a_checkpoint_that_does_not_fit(tmp_path: Path, room: int) -> None:
    store = CheckpointStore(tmp_path)
    store.save(Snapshot({"weight": torch.ones(10_000)}, {"step": 1}))

    def save() -> None:
        with pytest.raises(WriteError, match=MESSAGE.format("tensors.safetensors")):
            store.save(Snapshot({"weight": torch.zeros(10_000)}, {"step": 2}))

    with_files_of_at_most(room, save)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"], "the part that was written takes no room"
    found = store.load_latest()
    assert found is not None
    assert found.position == {"step": 1}
    store.save(Snapshot({"weight": torch.zeros(10_000)}, {"step": 2}))
    assert store._read(2) == {"step": 2}


def by_safetensors(path: Path) -> None:
    save_file({"x": torch.zeros(10_000)}, path)


def by_numpy(path: Path) -> None:
    np.zeros(10_000, dtype=np.float32).tofile(path)


def by_python(path: Path) -> None:
    path.write_text("x" * 40_000, encoding="utf-8")


@fault(3, "no room for a file, as Python, NumPy and safetensors say it", "one kind of error, with path and bytes")
@pytest.mark.parametrize("write", [by_safetensors, by_numpy, by_python])
def test_every_library_that_writes_says_it_alike(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_text("before", encoding="utf-8")

    def replace_it() -> None:
        with (
            pytest.raises(WriteError, match="file cannot be written: (File too large|No space left)"),
            atomic_path(path) as temporary,
        ):
            write(temporary)

    with_files_of_at_most(20_000, replace_it)
    assert path.read_text(encoding="utf-8") == "before"
    assert [path] == list(tmp_path.iterdir())


@fault(3, "no room for a run's state", "stopped with path and bytes; the state before is there")
def test_a_state_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"trials": 1})

    def write_more() -> None:
        with pytest.raises(WriteError, match=MESSAGE.format("state.json")):
            write_json(path, {"trials": list(range(10_000))})

    with_files_of_at_most(4096, write_more)
    assert read_json(path) == {"trials": 1}


_ON_A_SMALL_DISK = r"""
mkdir disk
mount -t tmpfs -o size=$1 none disk || exit 42
run() {
    "$0" -W ignore -c 'from flashdistill.cli import main; main()' explore tiny.yaml output=disk/run search.trials=1
}
run 2> full
first=$?
mount -o remount,size=200m none disk
run 2> enough || { cat enough >&2; exit 43; }
[ -s disk/run/results.json ] || exit 44
exit $first
"""


@pytest.mark.slow
@fault(
    3,
    "a run's disk full (a real one, of 50 to 1,500 KiB)",
    "one message with path and bytes; goes on when there is space",
)
@pytest.mark.parametrize("size", ["52k", "300k", "600k", "1500k"])
def test_a_run_whose_disk_is_full_goes_on_when_there_is_space(tmp_path: Path, size: str) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small disk needs root and unshare")
    prepare(tmp_path)
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", _ON_A_SMALL_DISK, sys.executable, size],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in (1, 42) and not (tmp_path / "full").exists():
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr}")
    told = (tmp_path / "full").read_text(encoding="utf-8")
    assert done.returncode in (1, 2), f"{told}\n{done.stderr}"
    assert "Traceback" not in told, told
    last = told.strip().splitlines()[-1]
    assert last.startswith("error: "), told
    assert "disk/run" in last
    assert " bytes " in last


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        raise FileNotFoundError(2, "No such file")
    with pytest.raises(ValueError, match="shape"), writing(tmp_path):
        raise ValueError("shape")
