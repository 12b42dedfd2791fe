"""Two processes over gloo, as torchrun starts them, against one process at the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "two_process_worker.py"


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, str(WORKER), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


def curves(path: Path) -> dict[str, list[list[float]]]:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[list[float]]]]:
    """One process's loss curves by preset."""
    found = {}
    for preset in ("paper", "mobilebert"):
        path = tmp_path_factory.mktemp("one") / "curves.json"
        done = subprocess.run(
            [sys.executable, str(WORKER), preset, str(path)], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        found[preset] = curves(path)
    return found


@pytest.mark.parametrize("preset", ["paper", "mobilebert"])
def test_two_processes_have_the_loss_curve_of_one(
    tmp_path: Path, expected: dict[str, dict[str, list[list[float]]]], preset: str
) -> None:
    path = tmp_path / "curves.json"
    done = torchrun(2, preset, str(path))
    assert done.returncode == 0, done.stderr
    found = curves(path)
    assert found.keys() == expected[preset].keys()
    for phase, points in found.items():
        assert [step for step, _ in points] == [step for step, _ in expected[preset][phase]]
        losses = [loss for _, loss in points]
        assert losses == pytest.approx([loss for _, loss in expected[preset][phase]], rel=1e-3)


def test_two_processes_resume_from_the_checkpoint_of_a_killed_run(
    tmp_path: Path, expected: dict[str, dict[str, list[list[float]]]]
) -> None:
    path, store = tmp_path / "curves.json", tmp_path / "checkpoints"
    killed = torchrun(2, "paper", str(path), str(store), "9")
    assert killed.returncode != 0
    assert not path.exists()
    assert list(store.glob("step-*"))
    done = torchrun(2, "paper", str(path), str(store))
    assert done.returncode == 0, done.stderr
    last = "pre-training distillation"
    losses = [loss for _, loss in curves(path)[last]]
    assert losses == pytest.approx([loss for _, loss in expected["paper"][last]], rel=1e-3)
