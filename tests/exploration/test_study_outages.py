"""A study on a PostgreSQL server that restarts, cuts connections or stays away; and several runs on one server."""

from __future__ import annotations

import builtins
import itertools
import logging
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.measurement import Objective
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import TrialState
from flashdistill.core.trust import without_password
from flashdistill.execution.executor import Job, Surroundings
from flashdistill.execution.processes import ProcessExecutor
from flashdistill.execution.settings import ExecutionSettings
from flashdistill.exploration import storage
from flashdistill.exploration.ownership import Owner
from flashdistill.exploration.study import Study
from tests.faults_catalogue import fault
from tests.postgres_server import PostgresServer
from tests.simulated_candidates import known_results, simulated

OBJECTIVES = [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]
ARCHITECTURES = [
    Architecture(*values)
    for values in itertools.product((64, 128, 256, 384, 512), (32, 64, 96, 128), (1, 2, 4), (256, 512), (1, 2))
]

Open = Callable[..., Study]


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """A new database."""
    name = f"outage_{uuid.uuid4().hex}"
    postgres.execute(f"CREATE DATABASE {name}")
    return postgres.url(name)


@pytest.fixture
def open_study(url: str) -> Iterator[Open]:
    """Opens studies of this database that are closed at the end."""
    opened = []

    def opening(name: str = "search", expected_trials: int = 0, owner: Owner | None = None) -> Study:
        opened.append(Study.open(url, name, OBJECTIVES, {}, expected_trials=expected_trials, owner=owner))
        return opened[-1]

    yield opening
    for study in opened:
        study.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 1.0)


def complete(study: Study, architecture: Architecture) -> None:
    trial = study.start(architecture)
    study.finish(replace(trial, state=TrialState.COMPLETE, measurements=known_results(architecture)))


def small_search(study: Study) -> None:
    """Every operation that writes."""
    for architecture in ARCHITECTURES[:2]:
        complete(study, architecture)
    study.finish(replace(study.start(ARCHITECTURES[2]), state=TrialState.FAILED, reason="diverged"))
    study.add_probe(ARCHITECTURES[3], known_results(ARCHITECTURES[3]))
    study.confirm(study.trials()[0], [known_results(ARCHITECTURES[4])])
    study.start(ARCHITECTURES[5])


SPACING = 21
"""Commits between two cuts of one search: more than any operation needs to succeed in between."""


class CutConnection:
    """Cuts the connection at every `SPACING`-th commit, before or after the server has carried it out."""

    def __init__(self, study: Study, first: int, carried_out: bool):
        self.commits = self.cuts = 0
        self._first, self._carried_out = first, carried_out
        dialect = study._storage.engine.dialect
        self._commit, dialect.do_commit = dialect.do_commit, self  # type: ignore[method-assign]

    def __call__(self, connection: Any) -> None:
        self.commits += 1
        if self.commits % SPACING != self._first:
            self._commit(connection)
            return
        if self._carried_out:
            self._commit(connection)
        self.cuts += 1
        connection.driver_connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")


@fault(16, "connection to PostgreSQL cut at a commit, before or after the server carried it out")
@pytest.mark.parametrize("carried_out", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "firsts", [range(0, SPACING, 9), pytest.param(range(SPACING), marks=pytest.mark.slow)], ids=["some", "every"]
)
def test_a_connection_cut_at_any_commit_changes_nothing(
    open_study: Open, carried_out: bool, firsts: range, record_property: Callable[[str, object], None]
) -> None:
    whole = open_study("whole")
    small_search(whole)
    cuts = 0
    for first in firsts:
        study = open_study(f"cut from {first}")
        cut = CutConnection(study, first, carried_out)
        small_search(study)
        assert study.trials() == whole.trials()
        assert study.probes() == whole.probes()
        assert cut.cuts >= 2
        cuts += cut.cuts
        study.close()
    record_property("injections", cuts)


@fault(16, "connection to PostgreSQL cut while the server goes on with what it was told", "its outcome is waited for")
def test_what_a_lost_connection_left_under_way_is_waited_for(open_study: Open, url: str) -> None:
    study = open_study()
    attempts = []

    def lose_the_first_connection() -> float:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise storage.ConnectionLostError("cut")
        return time.monotonic()

    with psycopg.connect(url) as lingering:
        lingering.execute("SELECT * FROM studies FOR UPDATE")
        release = threading.Timer(1.0, lingering.commit)
        release.start()
        done = storage.outlasting(study._storage, study.name, lose_the_first_connection)
        release.join()
    assert done - attempts[0] > 0.9


@fault(16, "PostgreSQL restarted between two operations")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["orderly", "crash"])
def test_a_restart_between_operations_is_not_noticed(
    open_study: Open, postgres: PostgresServer, how: signal.Signals
) -> None:
    study = open_study()
    complete(study, ARCHITECTURES[0])
    started = study.start(ARCHITECTURES[1])
    postgres.stop(how)
    postgres.start()
    assert [trial.state for trial in study.trials()] == ["complete", "pending"]
    postgres.stop(how)
    postgres.start()
    study.finish(replace(started, state=TrialState.FAILED, reason="diverged"))
    assert [trial.state for trial in study.trials()] == ["complete", "failed"]


@fault(16, "PostgreSQL away for a second in the middle of a search")
def test_a_server_that_comes_back_is_waited_for(
    open_study: Open, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    study = open_study()
    postgres.stop()
    back = threading.Timer(1.0, partial(postgres.start, wait=False))
    back.start()
    with caplog.at_level(logging.WARNING):
        small_search(study)
    back.join()
    assert [trial.number for trial in study.trials()] == [0, 1, 2, 3]
    assert len([record for record in caplog.records if "does not answer" in record.message]) == 1


@fault(16, "PostgreSQL that never comes back", "one clear message after a bounded time; the same command goes on")
@pytest.mark.usefixtures("impatient")
def test_a_server_that_stays_away_is_one_clear_message(open_study: Open, url: str, postgres: PostgresServer) -> None:
    study = open_study()
    complete(study, ARCHITECTURES[0])
    postgres.stop()
    try:
        for attempt in (study.trials, lambda: study.start(ARCHITECTURES[1])):
            began = time.monotonic()
            with pytest.raises(RunDirectoryError, match=r"postgresql://tester@.* does not answer.*the same command"):
                attempt()
            assert time.monotonic() - began < 5
        # At the start of a run there is nothing to wait for.
        began = time.monotonic()
        with pytest.raises(RunDirectoryError, match="cannot use the study's storage postgresql://tester@.*connection"):
            open_study("other")
        assert time.monotonic() - began < 1
    finally:
        postgres.start()
    complete(study, ARCHITECTURES[1])
    assert [trial.number for trial in study.trials()] == [0, 1]


@pytest.mark.slow
@fault(16, "PostgreSQL crashed in the middle of 200 trials by 8 workers", "200 trials, every number once, none lost")
def test_200_trials_from_8_workers_outlive_a_restart(
    open_study: Open, postgres: PostgresServer, tmp_path: Path
) -> None:
    study = open_study()
    waiting = iter(ARCHITECTURES[:200])
    under_way = {}
    crash = threading.Thread(target=_crash_and_return, args=(postgres,))
    settings, choose = ExecutionSettings.model_validate({"workers": 8, "memory_gib": 4}), random.Random(0)
    with ProcessExecutor(settings, Surroundings(logs=tmp_path)) as executor:

        def submit_next() -> None:
            if (architecture := next(waiting, None)) is not None:
                trial = study.start(architecture)
                under_way[str(trial.number)] = trial
                seconds = choose.uniform(0, 0.05)
                executor.submit(Job(str(trial.number), partial(simulated, architecture, seconds)))

        for _ in range(8):
            submit_next()
        finished = 0
        while under_way:
            outcome = executor.completed()
            finished += 1
            if finished == 100:
                crash.start()
            trial = under_way.pop(outcome.job.name)
            study.finish(replace(trial, state=TrialState.COMPLETE, measurements=outcome.get()))
            submit_next()
    crash.join()
    trials = study.trials()
    assert [trial.number for trial in trials] == list(range(200))
    assert [trial.architecture for trial in trials] == ARCHITECTURES[:200]
    assert all(trial.state is TrialState.COMPLETE for trial in trials)
    assert all(dict(trial.measurements) == known_results(trial.architecture) for trial in trials)


def _crash_and_return(server: PostgresServer) -> None:
    server.stop(signal.SIGQUIT)
    time.sleep(0.5)
    server.start(wait=False)


def owner(directory: Path) -> Owner:
    directory.mkdir(exist_ok=True)
    return Owner.of(RunDirectory(directory))


def test_a_study_belongs_to_one_run(open_study: Open, tmp_path: Path) -> None:
    first, second = owner(tmp_path / "first"), owner(tmp_path / "second")
    study = open_study(owner=first)
    complete(study, ARCHITECTURES[0])
    with pytest.raises(RunDirectoryError, match=r"study 'search' in postgresql://.* belongs to the run in .*/first; "):
        open_study(owner=second)
    assert len(study.trials()) == 1
    open_study("another name", owner=second)
    # The directory may move: what it remembers counts.
    (tmp_path / "first").rename(tmp_path / "moved")
    assert len(open_study(owner=owner(tmp_path / "moved"), expected_trials=1).trials()) == 1


def test_a_study_from_before_there_were_owners_is_taken_over(open_study: Open, tmp_path: Path) -> None:
    complete(open_study(), ARCHITECTURES[0])
    assert len(open_study(owner=owner(tmp_path / "first"), expected_trials=1).trials()) == 1
    with pytest.raises(RunDirectoryError, match="belongs to the run in"):
        open_study(owner=owner(tmp_path / "second"))


_OPEN_AT_ONCE = """
import sys, time
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.measurement import Objective
from flashdistill.exploration.ownership import Owner
from flashdistill.exploration.study import Study
print("ready", flush=True)
sys.stdin.readline()
try:
    Study.open(sys.argv[1], "search", [Objective("latency_ms", "minimize")], {}, owner=Owner(sys.argv[2], "there"))
except RunDirectoryError as error:
    print(error)
else:
    print("mine")
"""


def test_of_several_that_begin_at_once_one_gets_the_study(url: str) -> None:
    """The tables do not exist either when they begin."""
    command = [sys.executable, "-W", "ignore", "-c", _OPEN_AT_ONCE, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([*command, str(number)], **pipes) for number in range(4)]  # type: ignore[call-overload]
    for run in runs:
        assert run.stdout.readline() == "ready\n", run.stderr.read()
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    told = sorted((run.communicate(timeout=60)[0] for run in runs), key=lambda text: text != "mine\n")
    assert told[0] == "mine\n", told
    assert all("belongs to the run in there" in text for text in told[1:]), told


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_psycopg(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_psycopg)
    with pytest.raises(RunDirectoryError, match=r"not installed; pip install 'flashdistill\[postgresql\]'$"):
        Study.open("postgresql://somewhere/search", "search", OBJECTIVES, {})


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://tester:geheim@/nowhere?host={}",
        "postgresql://tester@/nowhere?host={}&password=geheim",
        "postgresql//tester:geheim@{}",
        "postgresql://tester:geheim@127.0.0.1:1/nowhere",
    ],
)
def test_no_message_has_the_password(address: str, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError) as caught:
        Study.open(address.format(tmp_path), "search", OBJECTIVES, {})
    told: BaseException | None = caught.value
    assert "search.storage" in str(told) or "the study's storage" in str(told)
    assert "geheim" not in str(told)
    assert "***" in str(told)


def test_a_password_stays_secret_in_an_outage(
    postgres: PostgresServer, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.3)
    study = Study.open(url.replace("tester@", "tester:geheim@"), "search", OBJECTIVES, {})
    postgres.stop()
    try:
        with pytest.raises(RunDirectoryError) as caught:
            study.trials()
    finally:
        postgres.start()
        study.close()
    assert "geheim" not in str(caught.value) + caplog.text


def test_a_kept_url_leaves_its_password_to_libpq(url: str) -> None:
    opened = storage.open_storage(without_password(url.replace("tester@", "tester:geheim@")))
    try:
        assert opened.engine.url.password is None
    finally:
        storage.close_storage(opened)
