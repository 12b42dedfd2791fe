"""What a search learns from another run's directory, which stays as it was."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import ConfigError, RunDirectoryError
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.exploration.space import DesignSpace
from flashdistill.exploration.storage import sqlite_url
from flashdistill.exploration.study import Study
from flashdistill.exploration.warm_start import prior_trials, recorded_trials
from tests.faults_catalogue import fault

OBJECTIVES = [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]
NAMES = ("512_128_4_512_4", "128_64_1_384_2", "256_96_4_384_4", "384_64_1_384_2", "384_96_4_640_4", "128_96_4_384_2")
BASELINE, COMPLETE, INFEASIBLE, STOPPED, FAILED, PENDING = (Architecture.parse(name) for name in NAMES)

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Optuna's tables; making them anew for every test takes longer than the tests."""
    path = tmp_path_factory.mktemp("tables") / "study.db"
    Study.open(sqlite_url(path), "tables", OBJECTIVES, {}).close()
    return path


@pytest.fixture
def make(tmp_path: Path, tables: Path) -> Make:
    """Makes a run's directory with a trial of every state and a probe."""

    def make_run(
        name: str = "earlier run? #1", template: str = "mobilebert", num_blocks: str = "[24]", storage: str = "null"
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        (run / "config.yaml").write_text(
            f"name: search\nspace: {{template: {template}, num_blocks: {num_blocks}}}\nsearch: {{storage: {storage}}}\n"
        )
        shutil.copy(tables, run / "study.db")
        return run

    return make_run


def scores(accuracy: float | None, latency: float | None) -> Mapping[str, Measurement]:
    given = {"mlm_accuracy": accuracy, "latency_ms": latency}
    return {name: Measurement.of(name, value, stderr=0.01) for name, value in given.items() if value is not None}


def fill(run: Path, url: str | None = None, depth: int | None = None) -> Path:
    """Every state a trial can have, under the architectures' names above."""
    study = Study.open(url or sqlite_url(run / "study.db"), "search", OBJECTIVES, {})

    def finish(architecture: Architecture, state: TrialState, accuracy: float | None, latency: float, **more) -> Trial:  # type: ignore[no-untyped-def]
        trial = study.start(replace(architecture, num_blocks=depth))
        trial = replace(trial, state=state, measurements=scores(accuracy, latency), **more)
        study.finish(trial)
        return trial

    finish(BASELINE, TrialState.COMPLETE, 0.30, 10.0)
    winner = finish(COMPLETE, TrialState.COMPLETE, 0.31, 8.0)
    finish(INFEASIBLE, TrialState.INFEASIBLE, None, 30.0, reason="slow")
    finish(STOPPED, TrialState.STOPPED, None, 7.0, reason="hopeless", curve={0.25: scores(0.1, None)})
    finish(FAILED, TrialState.FAILED, None, 6.0, reason="diverged")
    study.start(replace(PENDING, num_blocks=depth))
    study.confirm(winner, [scores(0.312, None), scores(0.308, None)])
    study.add_probe(replace(PENDING, num_blocks=depth), scores(None, 5.0))
    study.close()
    return run


def contents(run: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}


def test_what_was_learnt_comes_and_the_run_stays_as_it_was(make: Make) -> None:
    run = fill(make())
    before = contents(run)
    found = {trial.architecture: trial for trial in prior_trials(run)}
    assert list(found) == [BASELINE, COMPLETE, INFEASIBLE, STOPPED]
    assert found[COMPLETE].measurements == scores(0.31, 8.0)
    assert [one["mlm_accuracy"].value for one in found[COMPLETE].confirmations] == [0.312, 0.308]
    assert found[STOPPED].curve == {0.25: scores(0.1, None)}
    assert found[INFEASIBLE].number == 2
    assert contents(run) == before


def test_a_run_that_cannot_be_written_to_can_be_learnt_from(make: Make) -> None:
    run = fill(make())
    for path in (run / "study.db", run):
        path.chmod(0o555)
    try:
        assert len(prior_trials(run)) == 4
    finally:
        run.chmod(0o755)


def test_all_trials_and_probes_can_be_had(make: Make) -> None:
    trials, probes = recorded_trials(fill(make()))
    assert [str(trial.state) for trial in trials] == [
        *("complete", "complete", "infeasible", "stopped", "failed", "pending")
    ]
    assert [(probe.architecture, probe.value("latency_ms")) for probe in probes] == [(PENDING, 5.0)]


def test_a_run_is_read_while_it_goes_on(make: Make) -> None:
    """Read in the middle of a transaction of the run: what was there before it."""
    run = fill(make())
    with sqlite3.connect(run / "study.db") as writing:
        writing.execute("BEGIN IMMEDIATE")
        writing.execute("DELETE FROM trials")
        assert len(prior_trials(run)) == 4
        writing.rollback()
    writing.close()


KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 2")  # so that half of the transaction reaches the file
connection.execute("BEGIN")
connection.execute("CREATE TABLE ballast (text)")
connection.executemany("INSERT INTO ballast VALUES (?)", [("x" * 1000,)] * 500)
connection.execute("DELETE FROM trials")
os.kill(os.getpid(), 9)
"""


def test_the_journal_of_a_killed_run_is_left_to_it(make: Make) -> None:
    run = fill(make())
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run / "study.db")], check=False)
    assert killed.returncode == -signal.SIGKILL
    before = contents(run)
    assert "study.db-journal" in before
    assert len(prior_trials(run)) == 4
    assert contents(run) == before


def test_a_study_in_a_storage_of_its_own(make: Make, tmp_path: Path, tables: Path) -> None:
    shutil.copy(tables, tmp_path / "team.db")
    url = sqlite_url(tmp_path / "team.db")
    run = fill(make(storage=url), url)
    (run / "study.db").unlink()
    assert len(prior_trials(run)) == 4


def test_only_the_metrics_that_are_modelled(make: Make) -> None:
    run = fill(make())
    found = {trial.architecture: trial for trial in prior_trials(run, ["mlm_accuracy"])}
    assert set(found) == {BASELINE, COMPLETE}
    assert set(found[COMPLETE].measurements) == {"mlm_accuracy"}
    with pytest.raises(ConfigError, match=r"search.warm_start: the trials of .* have none of latency_ms@gpu"):
        prior_trials(run, ["latency_ms@gpu"])


def space(num_blocks: int | list[int] = 24, template: str = "mobilebert", **factors: object) -> DesignSpace:
    settings = SpaceSettings.model_validate({"num_blocks": num_blocks, "template": template, **factors})
    return DesignSpace(settings, StudentFamily(template=template, num_blocks=settings.num_blocks[0]))


def test_an_equal_space_takes_all(make: Make) -> None:
    assert len(prior_trials(fill(make()), space=space())) == 4


def test_another_template_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="are of the template autodistill, those of this run of mobilebert"):
        prior_trials(fill(make(template="autodistill")), space=space())


def test_another_depth_is_refused_unless_depth_is_searched(make: Make) -> None:
    run = fill(make(num_blocks="[12]"))
    with pytest.raises(ConfigError, match="none of the 4 trials .* all have 24 blocks"):
        prior_trials(run, space=space(24))
    found = prior_trials(run, space=space([12, 24]))
    assert [str(trial.architecture) for trial in found] == [f"{name}_12" for name in NAMES[:4]]


def test_of_several_depths_the_same_one_is_taken(make: Make) -> None:
    run = fill(make(num_blocks="[12, 24]"), depth=24)
    assert [trial.architecture for trial in prior_trials(run, space=space(24))] == [
        *(BASELINE, COMPLETE, INFEASIBLE, STOPPED)
    ]
    with pytest.raises(ConfigError, match="all have 6 blocks"):
        prior_trials(run, space=space(6))


def test_architectures_with_another_constant_factor_are_left_out(make: Make) -> None:
    found = prior_trials(fill(make()), space=space(intermediate_size=384))
    assert [trial.architecture for trial in found] == [COMPLETE, INFEASIBLE, STOPPED]
    with pytest.raises(ConfigError, match="all have num_heads 8, 24 blocks"):
        prior_trials(fill(make("another")), space=space(num_heads=8))


def test_its_own_directory_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fill(make())
    monkeypatch.chdir(run.parent)
    with pytest.raises(ConfigError, match=r"^search.warm_start: .* is this run's own output directory"):
        prior_trials(Path(run.name), output=run)


def test_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^search.warm_start: .* is not a run directory: it has no config.yaml"):
        prior_trials(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        recorded_trials(tmp_path)


def test_a_run_that_has_not_begun_to_search_is_refused(make: Make) -> None:
    run = make()
    with pytest.raises(ConfigError, match="has no study 'search' of .*; it has not begun to search"):
        prior_trials(run)
    (run / "study.db").unlink()
    with pytest.raises(ConfigError, match="has no study yet"):
        prior_trials(run)
    assert [path.name for path in run.iterdir()] == ["config.yaml"], "nothing was made there"


def test_a_run_without_a_finished_trial_is_refused(make: Make) -> None:
    run = make()
    study = Study.open(sqlite_url(run / "study.db"), "search", OBJECTIVES, {})
    study.start(BASELINE)
    study.close()
    with pytest.raises(ConfigError, match="has no finished trial to learn from; wait"):
        prior_trials(run)


@fault(5, "study database of an earlier run damaged")
def test_a_damaged_study_is_one_clear_message(make: Make) -> None:
    run = make()
    (run / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="cannot use the study's storage"):
        prior_trials(run)
