"""A whole tiny run on a Ray cluster of this machine: the same trials as in one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashdistill import pipeline
from flashdistill.config import RunConfig, load_config
from flashdistill.core.files import sha256_file
from flashdistill.core.progress import Silent
from flashdistill.core.trial import TrialState
from flashdistill.delivery.deliver import delivered
from flashdistill.delivery.record import RunRecord
from tests.tiny_run import in_directory, write_run

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with text and configuration, and a cluster that trains and serves."""
    directory = tmp_path_factory.mktemp("ray run")
    write_run(directory)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}
    source = str(Path(pipeline.__file__).parents[1])
    ray.init(
        num_cpus=2,
        resources={"serving": 1},
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": source}},
    )
    with in_directory(directory):
        yield directory
    ray.shutdown()


def tiny(output: str, *overrides: str) -> RunConfig:
    search = ("search.algorithm=random", "target.runtime=fake", "search.trials=3")
    return load_config(Path("tiny.yaml"), [f"output={output}", *search, *overrides])


def test_a_run_on_two_workers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "write_report", lambda record, directory: record.save(directory))
    pipeline.run(tiny("inprocess"), Silent())
    pipeline.run(tiny("ray", "execution={kind: ray, workers: 2, threads: 1}"), Silent())
    expected, record = (RunRecord.load(place / run) for run in ("inprocess", "ray"))
    assert [trial.number for trial in record.trials] == [0, 1, 2, 3]
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE}
    losses = {trial.architecture: trial.value("mlm_loss") for trial in expected.trials}
    for trial in record.trials:
        if trial.architecture in losses:
            assert trial.value("mlm_loss") == losses[trial.architecture]
    assert (place / "ray" / "measurements" / "reference.json").exists(), "the node that serves has measured"
    assert {model.directory for model in record.delivered} >= {"models/32_16_2_32_2"}
    for model in expected.delivered:
        if (place / "ray" / model.directory).exists():
            weights = [place / run / model.directory / "model.safetensors" for run in ("inprocess", "ray")]
            assert sha256_file(weights[0]) == sha256_file(weights[1])


@pytest.mark.slow
def test_two_processes_in_a_regular_distillation(place: Path) -> None:
    """They share every batch; two add in another order than one."""
    losses = []
    for output, execution in (("alone", "{kind: inprocess}"), ("together", "{kind: ray, processes_per_training: 2}")):
        config = tiny(output, f"execution={execution}")
        directory = pipeline.distill(config, config.baseline, Silent())
        assert directory is not None
        model = delivered(directory)
        assert model is not None
        losses.append(model.measurements["mlm_loss"].value)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
