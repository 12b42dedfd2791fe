"""Whole tiny runs whose candidates are trained in child processes: the same study, whatever dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flashdistill import pipeline, trainings
from flashdistill.config import RunConfig, load_config
from flashdistill.core.architecture import Architecture
from flashdistill.core.files import sha256_file
from flashdistill.core.progress import Silent
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.record import RunRecord
from tests.execution import jobs
from tests.progress_doubles import Messages
from tests.tiny_run import in_directory, write_run

SEARCH = ("search.algorithm=random", "target.runtime=fake", "search.trials=3", "search.early_stopping=true")
"""What is proposed depends on no measurement, so that studies can be compared."""

PROCESSES = "execution={kind: processes}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with text and configuration, in which the tests' runs share a prepared teacher."""
    directory = tmp_path_factory.mktemp("workers")
    write_run(directory)
    with in_directory(directory):
        yield directory


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "write_report", lambda record, directory: record.save(directory))


def tiny(output: str, *overrides: str) -> RunConfig:
    return load_config(Path("tiny.yaml"), [f"output={output}", *SEARCH, *overrides])


def explored(config: RunConfig) -> tuple[RunRecord, list[str]]:
    messages = Messages()
    pipeline.run(config, messages, until="search")
    return RunRecord.load(Path(config.output)), messages.texts


def essence(trial: Trial) -> tuple[Any, ...]:
    """All of a trial that does not depend on a clock."""

    def values(scores: Any) -> dict[str, float]:
        return {name: score.value for name, score in scores.items() if name.startswith(("mlm", "nsp", "num"))}

    curve = {share: values(scores) for share, scores in trial.curve.items()}
    again = [values(scores) for scores in trial.confirmations]
    return trial.number, trial.architecture, trial.state, trial.reason, values(trial.measurements), curve, again


@pytest.fixture(scope="module")
def expected(place: Path) -> RunRecord:
    """A whole run in this process, with confirmations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_report", lambda record, directory: record.save(directory))
        pipeline.run(tiny("inprocess", "search.confirm_seeds=1"), Silent())
    return RunRecord.load(place / "inprocess")


def test_child_processes_give_the_very_same_run(place: Path, expected: RunRecord) -> None:
    pipeline.run(tiny("processes", "search.confirm_seeds=1", PROCESSES), Silent())
    record = RunRecord.load(place / "processes")
    assert list(map(essence, record.trials)) == list(map(essence, expected.trials))
    assert any(trial.confirmations for trial in record.trials)
    assert all(len(trial.curve) == 3 for trial in record.trials)
    for model in expected.delivered:
        weights = [
            sha256_file(place / run / model.directory / "model.safetensors") for run in ("inprocess", "processes")
        ]
        assert weights[0] == weights[1]
    assert {model.directory for model in record.delivered} == {model.directory for model in expected.delivered}
    assert (place / "processes" / "teacher.json").read_bytes() == (place / "inprocess" / "teacher.json").read_bytes()
    assert not list((place / "processes" / "candidates").glob("*/*/checkpoints"))
    assert not list((place / "processes" / "workers").iterdir()), "who said nothing leaves no log"


def test_two_workers_train_every_trial_once(place: Path, expected: RunRecord) -> None:
    record, _ = explored(tiny("two", "search.trials=4", "execution={workers: 2}"))
    assert [trial.number for trial in record.trials] == list(range(5))
    assert len({trial.architecture for trial in record.trials}) == 5
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE}
    known = {trial.architecture: trial for trial in expected.trials}
    for trial in record.trials:
        if trial.architecture in known:
            assert trial.value("mlm_loss") == known[trial.architecture].value("mlm_loss")


def sabotage(monkeypatch: pytest.MonkeyPatch, fault: str, victim: Architecture, once: Path) -> None:
    monkeypatch.setattr(trainings, "train", partial(jobs.sabotaged, fault, victim, once))


FAULTS = {"SIGSEGV": r"crashed (SIGSEGV)", "memory": "out of memory ("}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_kills_one_candidate_kills_no_other(
    place: Path, expected: RunRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    sabotage(monkeypatch, fault, expected.trials[2].architecture, tmp_path / "happened")
    record, said = explored(tiny(fault, "execution={memory_gib: 1.2}"))
    failed = record.trials[2]
    assert failed.state is TrialState.FAILED
    assert failed.reason.startswith(FAULTS[fault])
    assert failed.costs["distill"] > 0
    others = [number for number in range(4) if number != 2]
    assert [essence(record.trials[n])[:5] for n in others] == [essence(expected.trials[n])[:5] for n in others]
    assert any(f"failed: {FAULTS[fault]}" in text for text in said)


def test_the_fault_of_one_is_not_that_of_those_beside_it(
    place: Path, expected: RunRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of three side by side in one process one crashes it, once: then all can be trained."""
    sabotage(monkeypatch, "SIGABRT", expected.trials[2].architecture, tmp_path / "happened")
    record, said = explored(tiny("beside", PROCESSES, "flash.students_per_teacher=3"))
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE}
    assert any("crashed (SIGABRT); going on with one at a time" in text for text in said)
    losses = {trial.architecture: trial.value("mlm_loss") for trial in record.trials}
    common = [trial for trial in expected.trials if trial.architecture in losses]
    assert len(common) == 4
    assert all(trial.value("mlm_loss") == losses[trial.architecture] for trial in common)


def test_a_killed_worker_does_not_change_the_study(
    place: Path, expected: RunRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sabotage(monkeypatch, "SIGKILL", expected.trials[1].architecture, tmp_path / "happened")
    record, said = explored(tiny("killed", PROCESSES))
    assert [essence(one)[:5] for one in record.trials] == [essence(one)[:5] for one in expected.trials]
    name = expected.trials[1].architecture
    assert f"flash {name}: the process was killed (SIGKILL); going on from its last checkpoint" in said


COORDINATOR = """
import os, re, signal, sys, threading
from pathlib import Path
from flashdistill import pipeline
from flashdistill.config import load_config
from flashdistill.core.progress import Silent
import torch; torch.set_num_threads(1)

class Striking(Silent):
    struck = False
    def advance(self, task, steps=1, note=""):
        if re.search(sys.argv[1], task + "/" + note) and not self.struck:
            self.struck = True
            os.kill(os.getpid(), int(sys.argv[2]))

try:
    pipeline.run(load_config(Path("tiny.yaml"), sys.argv[3:]), Striking(), until="search")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_coordinator_that_is_stopped_goes_on_where_it_was(
    place: Path, expected: RunRecord, number: signal.Signals
) -> None:
    name = f"stopped-{number.name}"
    victim = expected.trials[1].architecture
    overrides = [f"output={name}", *SEARCH, PROCESSES, "flash.pretraining_steps=60", "search.trials=1"]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COORDINATOR, f"^distil {victim}/pre", str(int(number)), *overrides],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == (-number if number is signal.SIGKILL else 130), ended.stderr
    checkpoints = Path(name, "candidates", str(victim), "flash", "checkpoints")
    if number is not signal.SIGKILL:
        assert checkpoints.exists(), "the step's checkpoint was written"
    record, _ = explored(load_config(Path("tiny.yaml"), [*overrides, "execution.kind=inprocess"]))
    assert [trial.number for trial in record.trials] == [0, 1]
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE}
    assert [trial.architecture for trial in record.trials] == [trial.architecture for trial in expected.trials[:2]]


def test_nothing_trains_while_a_latency_is_measured_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two workers one trains while the other's candidate is measured: it is suspended."""
    from flashdistill.scales import Scales

    real, seen = Scales.measure, []
    benches: list[Any] = []
    opened = pipeline.Life.__init__

    def remember(life: Any, bench: Any, ledger: Any) -> None:
        benches.append(bench)
        opened(life, bench, ledger)

    def measure(scales: Scales, subject: Any) -> Any:
        begin = time.monotonic()
        running = list(benches[0].executor._running.values())
        while any(Path(f"/proc/{one.pid}/stat").read_text().split()[2] != "T" for one in running if one.pid):
            assert time.monotonic() - begin < 5
        seen.append(len(running))
        return real(scales, subject)

    monkeypatch.setattr(pipeline.Life, "__init__", remember)
    monkeypatch.setattr(Scales, "measure", measure)
    record, _ = explored(tiny("paused", "execution={workers: 2}"))
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE}
    assert max(seen) == 1
