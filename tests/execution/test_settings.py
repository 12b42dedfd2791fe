"""Where training runs, as the user says it, and what it is taken for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashdistill.config import config_identity, load_config
from flashdistill.core.errors import ConfigError
from flashdistill.execution.executor import Surroundings
from flashdistill.execution.inprocess import InProcessExecutor
from flashdistill.execution.memory import GIB, limit_bytes, machine_bytes
from flashdistill.execution.opening import open_executor
from flashdistill.execution.settings import ExecutionSettings
from flashdistill.testing.executor_conformance import Shown
from tests.tiny_run import CONFIG


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.replace("execution: {kind: inprocess}\n", ""), encoding="utf-8")
    return path


MISTAKES = {
    "execution.kind=proceses": "execution.kind: got 'proceses', unknown kind; did you mean 'processes'? (allowed: "
    "processes, ray, inprocess)",
    "execution={workers: 0}": "execution.workers: got 0, allowed: a whole number ≥ 1",
    "execution={kind: inprocess, workers: 2}": "execution: kind inprocess has one worker, this process; set kind to "
    "processes or ray for more",
    "execution={address: 'head:6379'}": "execution: address applies to kind ray only, and kind is processes",
    "execution={kind: ray, resources_per_training: {num_gpu: 1}}": "execution.resources_per_training.num_gpu: unknown "
    "key; did you mean 'num_gpus'? (allowed: num_cpus, num_gpus)",
    "execution={memory_gib: 0}": "execution.memory_gib: got 0, allowed: a number > 0 or null",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistakes(file: Path, override: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(file, [override])
    assert [f"{problem.key}: {problem.message}" for problem in raised.value.problems] == [MISTAKES[override]]


def test_the_default_is_a_process_for_each_candidate_and_no_result_depends_on_it(file: Path) -> None:
    default = load_config(file)
    assert (default.execution.kind, default.execution.workers) == ("processes", 1)
    on_ray = load_config(file, ["execution={kind: ray, workers: 8, processes_per_training: 2}"])
    assert config_identity(on_ray) == config_identity(default)


def test_processes_that_share_every_training_are_where_candidates_run(tmp_path: Path) -> None:
    shown = Shown()
    with open_executor(ExecutionSettings.model_validate({}), Surroundings(tmp_path, shown), world_size=4) as executor:
        assert isinstance(executor, InProcessExecutor)
    [text] = shown.texts
    assert text == "execution: 4 processes share every training, so candidates run in them and not in processes"


def test_more_workers_than_cores_are_a_warning(tmp_path: Path) -> None:
    shown, many = Shown(), (os.cpu_count() or 1) + 1
    settings = ExecutionSettings.model_validate({"workers": many})
    with open_executor(settings, Surroundings(tmp_path, shown)) as executor:
        assert executor.places == many
    assert f"warning: execution.workers is {many}, but this machine has {many - 1} cores" in shown.texts[0]


def test_a_worker_s_share_of_the_memory() -> None:
    assert limit_bytes(2.5, workers=8) == int(2.5 * GIB)
    assert limit_bytes(None, workers=1) == pytest.approx(4 * limit_bytes(None, workers=4))
    assert 0.7 * machine_bytes() < limit_bytes(None, workers=1) < 0.9 * machine_bytes()
