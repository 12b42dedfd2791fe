import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from dataclasses import replace

import optuna
import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.storage import close_storage, open_storage, sqlite_url
from flashdistill.exploration.study import Study
from tests.faults_catalogue import fault

OBJECTIVES = [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]
FACTORS = {
    "hidden_size": (128, 256),
    "bottleneck_size": (64, 96),
    "num_heads": (1, 4),
    "intermediate_size": (384,),
    "num_feedforward": (2, 4),
}
BASELINE, FIRST, SECOND = (Architecture.parse(t) for t in ("512_128_4_512_4", "128_64_1_384_2", "256_96_4_384_4"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A database with Optuna's tables; making them anew for every test takes longer than the tests."""
    path = tmp_path_factory.mktemp("tables") / "study.db"
    open_study(path).close()
    return path


@pytest.fixture
def new_path(tmp_path):
    folder = tmp_path / "a run? with #1 50%20 ü"
    folder.mkdir()
    return folder / "study.db"


@pytest.fixture
def path(new_path, tables):
    shutil.copy(tables, new_path)
    return new_path


@pytest.fixture(scope="session")
def template(postgres):
    """The same on a server: a database to make copies of."""
    postgres.execute("CREATE DATABASE tables")
    open_study(postgres.url("tables")).close()
    return "TEMPLATE tables"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """Makes a new database, with or without Optuna's tables, and gives its URL."""

    def make(empty=False):
        if request.param == "sqlite":
            return sqlite_url(request.getfixturevalue("new_path" if empty else "path"))
        server = request.getfixturevalue("postgres")
        template = "" if empty else request.getfixturevalue("template")
        name = f"study_{uuid.uuid4().hex}"
        server.execute(f"CREATE DATABASE {name} {template}")
        return server.url(name)

    return make


@pytest.fixture
def new_url(database):
    return database(empty=True)


@pytest.fixture
def url(database):
    return database()


_OPEN = []


@pytest.fixture(autouse=True)
def _closed():
    """Tests may leave their studies open: connections to a server must be given back."""
    yield
    while _OPEN:
        _OPEN.pop().close()


def open_study(place, expected=0, objectives=OBJECTIVES, name="search"):
    limits = [Constraint.parse("latency_ms <= 0.8x")]
    url = place if isinstance(place, str) else sqlite_url(place)
    _OPEN.append(Study.open(url, name, objectives, FACTORS, limits, expected))
    return _OPEN[-1]


def results(accuracy=0.3, latency=10.0):
    return {
        "mlm_accuracy": Measurement("mlm_accuracy", accuracy, "fraction", 0.003, 4096, {"seed": 7, "data": "ab"}, {}),
        "latency_ms": Measurement.of("latency_ms", latency, stderr=0.1 + 0.2, samples=64, runtime="onnxruntime"),
        "peak_memory_bytes": Measurement("peak_memory_bytes", 1e8 / 3, "bytes", details={"p50": 1.5, "noisy": True}),
    }


def complete(trial, **values):
    return replace(trial, state=TrialState.COMPLETE, measurements=results(**values), costs={"distill": 1 / 3})


def test_everything_survives_the_round_trip(url):
    study = open_study(url)
    baseline = complete(study.start(BASELINE))
    study.finish(baseline)
    slow = replace(
        study.start(FIRST),
        state=TrialState.INFEASIBLE,
        reason="latency_ms = 9 breaks latency_ms <= 0.8x",
        measurements={"latency_ms": Measurement.of("latency_ms", 9.0)},
    )
    study.finish(slow)
    broken = replace(study.start(SECOND), state=TrialState.FAILED, reason="diverged: step 3", costs={"export": 2.0})
    study.finish(broken)
    study.close()
    assert open_study(url, expected=3).trials() == [baseline, slow, broken]


def test_stopped_trials_keep_their_curve_and_are_told_from_infeasible_ones(url):
    study = open_study(url)
    study.finish(complete(study.start(BASELINE)))
    stopped = replace(
        study.start(FIRST),
        state=TrialState.STOPPED,
        reason="beaten by trial 0",
        measurements={"latency_ms": Measurement.of("latency_ms", 11.0)},
        curve={0.25: {"mlm_accuracy": results()["mlm_accuracy"]}, 0.5: {}},
    )
    study.finish(stopped)
    study.finish(replace(study.start(SECOND), state=TrialState.INFEASIBLE, reason="too slow"))
    study.close()
    assert open_study(url, expected=3).trials()[1] == stopped
    assert [trial.state for trial in open_study(url).trials()] == ["complete", "stopped", "infeasible"]


def test_confirmations_are_added_to_a_complete_trial(url):
    study = open_study(url)
    baseline = complete(study.start(BASELINE))
    with pytest.raises(ValueError, match="trial 0 is not complete, so there is nothing to confirm"):
        study.confirm(baseline, [results()])
    study.finish(baseline)
    for count in (1, 2):
        study.confirm(baseline, [results(accuracy=0.1 * number) for number in range(count)])
        [found] = open_study(url, expected=1).trials()
        assert found == replace(baseline, confirmations=tuple(results(accuracy=0.1 * n) for n in range(count)))
    with pytest.raises(ValueError, match="only finite values"):
        study.confirm(baseline, [results(accuracy=float("nan"))])
    with pytest.raises(ValueError, match="no trial 0 of"):
        study.confirm(replace(baseline, architecture=FIRST), [results()])


def test_probes_are_no_trials(url):
    study = open_study(url)
    for architecture, latency in ((SECOND, 4.0), (FIRST, 3.0), (FIRST, 2.0)):
        study.add_probe(architecture, {"latency_ms": Measurement.of("latency_ms", latency)})
    with pytest.raises(ValueError, match="only finite values"):
        study.add_probe(BASELINE, {"latency_ms": Measurement.of("latency_ms", float("inf"))})
    assert study.trials() == []
    probes = open_study(url).probes()
    assert [(one.number, one.architecture, one.state) for one in probes] == [
        (-1, FIRST, "measured"),
        (-1, SECOND, "measured"),
    ]
    assert [one.value("latency_ms") for one in probes] == [2.0, 4.0]
    assert study.start(FIRST).number == 0, "a probe may become a trial"


def test_trials_are_numbered_in_order_and_pending_until_finished(url):
    study = open_study(url)
    started = [study.start(architecture) for architecture in (BASELINE, FIRST, SECOND)]
    assert [trial.number for trial in started] == [0, 1, 2]
    study.finish(complete(started[1]))
    assert [trial.state for trial in study.trials()] == ["pending", "complete", "pending"]


def test_an_architecture_is_never_tried_twice(url):
    study = open_study(url)
    study.start(FIRST)
    with pytest.raises(ValueError, match="trial 0 already"):
        study.start(FIRST)
    assert len(study.trials()) == 1


def test_depth_survives_where_it_is_searched(url):
    study = open_study(url)
    architectures = [replace(FIRST, num_blocks=blocks) for blocks in (6, 12)]
    for architecture in architectures:
        study.start(architecture)
    assert [trial.architecture for trial in study.trials()] == architectures


@fault(1, "SIGKILL between starting and finishing a trial", "the trial is pending under its number")
def test_a_killed_process_leaves_its_trial_pending_under_its_number(new_url):
    script = f"""
import os, signal
from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Objective
from flashdistill.exploration.study import Study
study = Study.open({new_url!r}, "search", [Objective("mlm_accuracy", "maximize")], {FACTORS!r})
study.start(Architecture.parse("{BASELINE}"))
study.start(Architecture.parse("{FIRST}"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    study = open_study(new_url, expected=2, objectives=OBJECTIVES[:1])
    assert study.trials() == [
        Trial(0, BASELINE, TrialState.PENDING),
        Trial(1, FIRST, TrialState.PENDING),
    ]
    study.finish(complete(study.trials()[1]))
    assert [(trial.number, trial.state) for trial in study.trials()] == [(0, "pending"), (1, "complete")]


@fault(1, "break while a trial's results are written", "half results do not count")
def test_a_kill_while_finishing_does_not_count_half_results(url, monkeypatch):
    study = open_study(url)
    trial = study.start(BASELINE)
    with monkeypatch.context() as patch:
        patch.setattr(study._study, "tell", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            study.finish(complete(trial, accuracy=0.1))
    again = open_study(url, expected=1)
    assert again.trials() == [Trial(0, BASELINE, TrialState.PENDING)]
    finished = complete(trial, accuracy=0.2)
    again.finish(finished)
    assert again.trials() == [finished]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@fault(6, "NaN or infinity offered to the study", "refused")
def test_non_finite_values_are_refused_and_the_trial_stays_pending(url, bad):
    study = open_study(url)
    trial = study.start(BASELINE)
    finished = complete(trial)
    spoiled = [
        complete(trial, accuracy=bad),
        replace(finished, costs={"distill": bad}),
        replace(finished, measurements=results() | {"mlm_loss": Measurement.of("mlm_loss", 1.0, stderr=bad)}),
        replace(finished, measurements={"mlm_loss": Measurement("mlm_loss", 1.0, "nats", details={"p90": bad})}),
    ]
    for each in spoiled:
        with pytest.raises(ValueError, match="only finite values"):
            study.finish(each)
    assert study.trials() == [trial]


def test_what_cannot_be_recorded_is_refused(url):
    study = open_study(url)
    trial = study.start(BASELINE)
    with pytest.raises(ValueError, match="cannot finish as pending"):
        study.finish(trial)
    with pytest.raises(ValueError, match="without latency_ms"):
        study.finish(replace(complete(trial), measurements={"mlm_accuracy": results()["mlm_accuracy"]}))
    with pytest.raises(ValueError, match="no trial 5"):
        study.finish(replace(complete(trial), number=5))
    with pytest.raises(ValueError, match="no trial 0 of"):
        study.finish(replace(complete(trial), architecture=FIRST))
    study.finish(complete(trial))
    with pytest.raises(ValueError, match="complete already"):
        study.finish(complete(trial))


def test_optuna_and_its_dashboard_see_a_proper_study(url):
    study = open_study(url)
    study.finish(complete(study.start(BASELINE), latency=10.0))
    study.finish(complete(study.start(FIRST), accuracy=0.2, latency=6.0))
    study.finish(replace(study.start(SECOND), state=TrialState.FAILED, reason="diverged"))
    storage = open_storage(url)
    seen = optuna.load_study(study_name="search", storage=storage)
    assert seen.metric_names == ["mlm_accuracy", "latency_ms"]
    assert [direction.name for direction in seen.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert seen.trials[1].params == dict(zip(FACTORS, FIRST.values(), strict=True))
    assert seen.trials[1].values == [0.2, 6.0]
    assert seen.trials[1].user_attrs["peak_memory_bytes"] == 1e8 / 3
    assert seen.trials[1].distributions["hidden_size"] == optuna.distributions.IntDistribution(128, 256)
    # 10 ms and 6 ms against a limit of 8 ms.
    assert [trial.system_attrs["constraints"] for trial in seen.trials[:2]] == [[0.25], [-0.25]]
    assert seen.trials[2].user_attrs["reason"] == "diverged"
    assert seen.trials[2].state.name == "FAIL"
    close_storage(storage)


def test_a_new_database_is_filled_where_none_is_expected(new_url):
    assert open_study(new_url).trials() == []
    assert open_study(new_url, name="other").trials() == []


@fault(5, "study database emptied")
def test_an_empty_file_is_a_new_database_only_where_none_is_expected(new_path):
    new_path.touch()
    with pytest.raises(RunDirectoryError, match="gone or empty"):
        open_study(new_path, expected=1)
    assert open_study(new_path).trials() == []


def filled(path, count=2):
    study = open_study(path)
    for architecture in (BASELINE, FIRST, SECOND)[:count]:
        study.start(architecture)
    study.close()


@fault(5, "study database deleted")
def test_a_deleted_database_is_told(path):
    filled(path)
    path.unlink()
    with pytest.raises(RunDirectoryError, match=r"gone or empty.*2 trials"):
        open_study(path, expected=2)
    assert not path.exists(), "no empty study in its place"


@fault(5, "study database cut in half")
def test_a_cut_database_is_told(path):
    filled(path)
    os.truncate(path, path.stat().st_size // 2)
    for expected in (0, 2):
        with pytest.raises(RunDirectoryError, match="damaged"):
            open_study(path, expected)


@fault(5, "study database overwritten")
def test_a_file_that_is_no_database_is_told(path):
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(RunDirectoryError, match="not a database"):
        open_study(path)


@fault(5, "study database replaced by an older copy")
def test_an_older_copy_with_fewer_trials_is_told(url):
    filled(url)
    with pytest.raises(RunDirectoryError, match=r"has 2 trials.*has started 3"):
        open_study(url, expected=3)


@fault(5, "study gone from its database")
def test_a_database_without_the_study_is_told(url):
    filled(url)
    with pytest.raises(RunDirectoryError, match="has no study 'other'"):
        open_study(url, expected=2, name="other")


def test_other_objectives_are_told(url):
    filled(url)
    for objectives in (OBJECTIVES[::-1], OBJECTIVES[:1], [OBJECTIVES[0], Objective("peak_memory_bytes", "minimize")]):
        with pytest.raises(RunDirectoryError, match="maximize mlm_accuracy, minimize latency_ms"):
            open_study(url, expected=2, objectives=objectives)


def test_several_studies_share_a_database(url):
    filled(url)
    other = open_study(url, name="other")
    other.start(SECOND)
    assert [trial.number for trial in other.trials()] == [0]
    assert len(open_study(url, expected=2).trials()) == 2


def test_a_writer_waits_for_a_lock_of_somebody_else(path):
    study = open_study(path)
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, other.commit)
    release.start()
    study.start(BASELINE)
    release.join()
    other.close()
    assert len(study.trials()) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not a url", "not a storage URL"),
        ("sqlite:////nonexistent/folder/study.db", "unable to open database file"),
        ("nosuchdatabase://host/x", "storage nosuchdatabase"),
    ],
)
def test_an_unusable_storage_is_one_clear_message(url, message):
    with pytest.raises(RunDirectoryError, match=message):
        Study.open(url, "search", OBJECTIVES, FACTORS)


def test_a_password_is_never_shown():
    with pytest.raises(RunDirectoryError) as caught:
        Study.open("nosuchdatabase://user:secret@host/x", "search", OBJECTIVES, FACTORS)
    assert "secret" not in str(caught.value)


def test_optuna_is_silent(url, capfd, recwarn):
    study = open_study(url)
    study.finish(complete(study.start(BASELINE)))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
