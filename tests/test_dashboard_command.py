"""The dashboard: read-only, on this machine, and clear about what is missing."""

import builtins
import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from flashdistill import dashboard_command
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import InputError, RunDirectoryError
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.storage import sqlite_url
from flashdistill.exploration.study import Study

CONFIG = """\
name: small
teacher: {model: models/teacher}
corpus: {source: {files: "data/*.txt"}}
baseline: 256_64_2_256_2
flash: {seconds: 30}
regular: {seconds: 60}
"""
OBJECTIVES = [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]
REASON = "latency_ms = 9 breaks latency_ms <= 0.8x (limit 4)"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return RunDirectory(tmp_path)


@pytest.fixture
def searched(run):
    study = Study.open(sqlite_url(run.study), "small", OBJECTIVES, {})
    baseline = study.start(Architecture.parse("256_64_2_256_2"))
    measured = {"mlm_accuracy": Measurement.of("mlm_accuracy", 0.3), "latency_ms": Measurement.of("latency_ms", 5.0)}
    study.finish(Trial(0, baseline.architecture, TrialState.COMPLETE, measurements=measured))
    student = study.start(Architecture.parse("512_64_2_256_2"))
    study.finish(Trial(1, student.architecture, TrialState.INFEASIBLE, REASON))
    study.close()
    return run


class Serving:
    """`serve` in a thread, until left; ``address`` and ``said`` are what it announced."""

    def __init__(self, run, monkeypatch):
        self.run, self.patch, self.said = run, monkeypatch, ""
        self.server, self.error, self.ready = None, None, threading.Event()

    def __enter__(self):
        listen = dashboard_command._listen

        def remember(application, port):
            self.server = listen(application, port)
            return self.server

        self.patch.setattr(dashboard_command, "_listen", remember)
        self.thread = threading.Thread(target=self.work)
        self.thread.start()
        assert self.ready.wait(60)
        if self.error is not None:
            raise self.error
        self.address = self.said.split("/dashboard")[0]
        return self

    def work(self):
        try:
            dashboard_command.serve(self.run, 0, self.announce)
        except Exception as error:
            self.error = error
            self.ready.set()

    def announce(self, text):
        self.said = text
        self.ready.set()

    def __exit__(self, *_):
        if self.server is not None:
            self.server.shutdown()
        self.thread.join(60)

    def get(self, path):
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return answer.read()


def test_the_study_is_shown_and_cannot_be_changed(searched, monkeypatch):
    with Serving(searched, monkeypatch) as served:
        assert served.said.endswith("/dashboard/studies/1 (read-only; Ctrl-C stops it)")
        assert served.address.startswith("http://127.0.0.1:")
        assert b"<html" in served.get("/dashboard/studies/1")
        study = json.loads(served.get("/api/studies/1?after=0"))
        assert study["name"] == "small"
        assert study["objective_names"] == ["mlm_accuracy", "latency_ms"]
        complete, excluded = study["trials"]
        assert {item["name"]: item["param_external_value"] for item in complete["params"]}["hidden_size"] == "256"
        assert {item["key"]: item["value"] for item in excluded["user_attrs"]}["reason"] == REASON
        request = urllib.request.Request(f"{served.address}/api/studies/1", method="DELETE")
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(request, timeout=30)
        assert "read-only" in json.loads(refused.value.read())["reason"]
        refused.value.close()
    study = Study.open(sqlite_url(searched.study), "small", OBJECTIVES, {}, expected_trials=2)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE, TrialState.INFEASIBLE]
    study.close()


def test_ctrl_c_ends_it_quietly(searched, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dashboard_command._Server, "serve_forever", interrupt)
    said = []
    dashboard_command.serve(searched, 0, said.append)
    assert len(said) == 1


def test_a_port_in_use_is_named_before_an_address_is(searched):
    said = []
    with socket.socket() as taken:
        taken.bind((dashboard_command.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is in use; choose another with --port"):
            dashboard_command.serve(searched, port, said.append)
    assert said == []


def test_a_run_without_a_study(run):
    with pytest.raises(InputError, match=r"has no study.db yet; start its search first"):
        dashboard_command.serve(run, 0, print)
    assert not run.study.exists()


def test_another_runs_study(searched):
    searched.config.write_text(CONFIG.replace("small", "other"), encoding="utf-8")
    with pytest.raises(InputError, match="has no study 'other' yet; start the search"):
        dashboard_command.serve(searched, 0, print)


def test_a_damaged_study(run):
    run.study.write_bytes(b"no database at all" * 100)
    with pytest.raises(RunDirectoryError, match="is damaged"):
        dashboard_command.serve(run, 0, print)


def test_a_missing_package_names_the_extra(searched, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name == "optuna_dashboard":
            raise ModuleNotFoundError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'flashdistill\[dashboard\]'"):
        dashboard_command.serve(searched, 0, print)
