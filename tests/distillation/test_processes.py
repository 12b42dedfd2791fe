"""Two processes over gloo, as torchrun starts them, against one process at the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults_catalogue import fault

WORKER = Path(__file__).parent / "two_process_worker.py"
PRETRAINING = "pre-training distillation"

Curves = dict[str, dict[str, list[list[float]]]]


def run(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), str(WORKER), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """One process's loss curves by preset and phase."""
    path = tmp_path_factory.mktemp("one") / "curves.json"
    done = run(1, str(path))
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def losses(points: list[list[float]]) -> list[float]:
    return [loss for _, loss in points]


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path, expected: Curves) -> None:
    path = tmp_path / "curves.json"
    done = run(2, str(path))
    assert done.returncode == 0, done.stderr
    found: Curves = json.loads(path.read_text())
    for preset, phases in expected.items():
        assert found[preset].keys() == phases.keys()
        for name, points in phases.items():
            assert [step for step, _ in found[preset][name]] == [step for step, _ in points]
            assert losses(found[preset][name]) == pytest.approx(losses(points), rel=1e-3)


@fault(1, "SIGKILL of a distillation in two processes", "the same losses")
def test_two_processes_resume_from_the_checkpoint_of_a_killed_run(tmp_path: Path, expected: Curves) -> None:
    path, store = tmp_path / "curves.json", tmp_path / "checkpoints"
    killed = run(2, str(path), str(store), "9")
    assert killed.returncode != 0
    assert not path.exists()
    assert list(store.glob("step-*"))
    done = run(2, str(path), str(store), "-1")
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())["paper"]
    assert losses(found[PRETRAINING]) == pytest.approx(losses(expected["paper"][PRETRAINING]), rel=1e-3)
