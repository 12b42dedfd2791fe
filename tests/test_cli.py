"""The command line: its verbs, what they hand to the pipeline, their exit codes."""

import json
import re
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import flashdistill
from flashdistill import cli, measure_command
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import NothingFeasibleError, TargetError
from flashdistill.core.measurement import Measurement

GOOD = """\
name: small
teacher: {model: models/teacher, vocabulary: 2000}
corpus: {source: {files: "data/*.txt"}}
space: {num_blocks: 4, hidden_size: [128, 256], bottleneck_size: [64], num_heads: [1, 2]}
baseline: 256_64_2_256_2
flash: {seconds: 30}
regular: {seconds: 60}
"""

VERBS = {
    "run": "CONFIG [KEY=VALUE]...",
    "check": "CONFIG [KEY=VALUE]...",
    "plan": "CONFIG [KEY=VALUE]...",
    "explore": "CONFIG [KEY=VALUE]...",
    "measure": "[ARCH]...",
    "distill": "ARCH [KEY=VALUE]...",
    "pretrain-teacher": "CONFIG [KEY=VALUE]...",
    "report": "RUN",
    "dashboard": "RUN",
    "remeasure": "RUN [KEY=VALUE]...",
    "audit": "RUN [KEY=VALUE]...",
    "finetune": "[MODEL]...",
    "evaluate": "RUN [KEY=VALUE]...",
    "doctor": "",
}


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(GOOD, encoding="utf-8")
    return tmp_path


@pytest.fixture
def pipeline(monkeypatch):
    """A pipeline that notes how it was called."""
    fake: Any = types.ModuleType("flashdistill.pipeline")
    fake.calls = []

    def note(name, result):
        def function(*arguments, **options):
            fake.calls.append((name, arguments, options))
            return result

        setattr(fake, name, function)

    note("run", Path("runs/small/report.html"))
    note("distill", Path("runs/small/models/256_64_2_256_2"))
    note("report", Path("runs/small/report.html"))
    monkeypatch.setitem(sys.modules, "flashdistill.pipeline", fake)
    monkeypatch.setattr(flashdistill, "pipeline", fake, raising=False)
    return fake


def call(*arguments: str):
    return CliRunner().invoke(cli.app, arguments)


def raises(error: BaseException):
    def function(*_, **__):
        raise error

    return function


def test_the_command_line_is_frozen():
    shown = call("--help").stdout
    assert re.findall(r"^\W+([\w-]+)  +\S", shown.split("Commands")[1], re.MULTILINE) == list(VERBS)
    for verb, arguments in VERBS.items():
        usage = call(verb, "--help").stdout.replace("{", "").replace("}", "")
        assert " ".join(usage.split()).startswith(" ".join(f"Usage: root {verb} [OPTIONS] {arguments}".split()))


def test_version():
    result = call("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"flashdistill \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize(
    "arguments", [["run"], ["dream"], ["run", "run.yaml", "--loud"], ["measure", "128_64_1_384_2"]]
)
def test_wrong_usage(arguments):
    assert call(*arguments).exit_code == 2


def test_run_hands_over_the_configuration(directory, pipeline):
    result = call("run", "run.yaml", "search.trials=3", "--output", "else where", "seed=5")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "report: runs/small/report.html\n"
    ((name, (config, progress), options),) = pipeline.calls
    assert (name, options) == ("run", {"until": "delivery"})
    assert (config.search.trials, config.seed, config.output) == (3, 5, Path("else where"))
    assert callable(progress.advance)


def test_explore_stops_after_the_search(directory, pipeline):
    assert call("explore", "run.yaml").exit_code == 0
    assert pipeline.calls[0][2] == {"until": "search"}


def test_distill(directory, pipeline):
    result = call("distill", "128_64_1_256_1", "--config", "run.yaml", "regular.seconds=9")
    assert result.stdout == "model: runs/small/models/256_64_2_256_2\n"
    ((_, (config, architecture, _), _),) = pipeline.calls
    assert architecture == Architecture(128, 64, 1, 256, 1)
    assert config.regular.seconds == 9


def test_pretrain_teacher_tells_what_it_made(directory, monkeypatch):
    calls = []
    fake: Any = types.ModuleType("flashdistill.teacher_command")
    made = types.SimpleNamespace(facts=[("name", "BERT 2x16"), ("steps", "5")], yaml="teacher: {model: there}")

    def pretrain_teacher(*arguments):
        calls.append(arguments)
        return made

    fake.pretrain_teacher = pretrain_teacher
    monkeypatch.setitem(sys.modules, "flashdistill.teacher_command", fake)
    monkeypatch.setattr(flashdistill, "teacher_command", fake, raising=False)
    result = call("pretrain-teacher", "run.yaml", "teacher.vocabulary=900", "--output", "there")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "name: BERT 2x16\nsteps: 5\n\nIn a configuration: teacher: {model: there}\n"
    assert call("pretrain-teacher", "run.yaml").exit_code == 0
    (first, there, _), (_, default, _) = calls
    assert (first.teacher.vocabulary, there, default) == (900, Path("there"), None)
    made = None  # as in all but the first of several processes
    assert call("pretrain-teacher", "run.yaml").stdout == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("12", "error: '12' is not an architecture; write hidden_bottleneck_"),
        ("128_64_3_256_1", "error: 128_64_3_256_1 is impossible: 3 heads do not divide the bottleneck of 64"),
        ("64_64_2_256_1", "error: got 64_64_2_256_1, whose hidden size 64 is below space.embedding_size 128"),
    ],
)
@pytest.mark.parametrize("verb", ["distill", "measure"])
def test_an_impossible_architecture(directory, pipeline, verb, name, message):
    result = call(verb, name, "--config", "run.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert pipeline.calls == []


def test_measure_shows_intervals_and_writes_json(directory, monkeypatch):
    small, large = Architecture(128, 64, 1, 256, 1), Architecture(256, 64, 1, 256, 1)
    details = {"ratio": 0.5, "ratio_low": 0.49, "ratio_high": 0.51, "noisy": True}
    latency = Measurement("latency_ms", 1.23456, "ms", stderr=0.01, samples=20, details=details)
    parameters = Measurement("num_parameters", 1234567, "parameters")
    found = [(small, {"latency_ms": latency, "num_parameters": parameters}), (large, {"num_parameters": parameters})]
    measure = lambda config, subjects, progress: found if subjects == [small, large, Path("mine")] else []  # noqa: E731
    monkeypatch.setattr(measure_command, "measure", measure)
    Path("mine").mkdir()
    options = ["--config", "run.yaml", "--json", "found/out.json"]
    result = call("measure", str(small), "seed=3", str(large), "mine", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[:3] == [
        "architecture            latency ms          ratio [95 %]  parameters M",
        "128_64_1_256_1  1.235 ± 0.02 noisy  0.500 [0.490, 0.510]         1.235",
        "256_64_1_256_1                   -                     -         1.235",
    ]
    written = json.loads(Path("found/out.json").read_text(encoding="utf-8"))
    assert [entry["architecture"] for entry in written] == [str(small), str(large)]
    assert written[0]["measurements"]["latency_ms"]["details"]["ratio_low"] == 0.49


def test_measure_needs_an_architecture(directory, pipeline):
    result = call("measure", "seed=3", "--config", "run.yaml")
    assert (result.exit_code, pipeline.calls) == (2, [])
    assert "name at least one architecture" in result.stderr


def test_check_says_what_a_run_would_do(directory):
    result = call("check", "run.yaml", 'constraints=["num_parameters <= 1.2e6"]', "search.trials=50")
    assert result.exit_code == 0, result.stderr
    assert "run.yaml: configuration is valid" in result.stdout
    rows = dict(re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines() if line.startswith("  "))
    assert rows["architectures"] == "36"
    assert rows["smallest"] == "128_64_1_384_2, 953,984 parameters"
    assert rows["search"] == "bayesian, all 36 architectures (search.trials is 50) and the baseline"
    assert rows["training time"].startswith("at most about 22 minutes")  # 37 × 30 s + 4 × 60 s
    assert rows["output"] == f"{directory}/runs/small (new)"
    within = re.fullmatch(r"(\d+) of 36 \(num_parameters <= 1\.2e\+06\)", rows["within size limits"])
    assert within is not None
    assert 0 < int(within[1]) < 36


def test_check_counts_steps_and_states_its_assumption(directory):
    budget = "flash={steps_per_block: 10, pretraining_steps: 2000, batch_size: 8}"
    result = call("check", "run.yaml", budget, "teacher.vocabulary=null")
    assert "4 blocks × 10 steps, then 2,000 steps; batch 8, lamb, learning rate 0.0015" in result.stdout
    assert "Parameter counts assume a vocabulary of 30,522" in result.stdout
    assert "training time" not in result.stdout


def test_check_says_that_an_output_directory_exists(directory):
    (directory / "there").mkdir()
    (directory / "there" / "config.yaml").touch()
    assert "there (exists: " in call("check", "run.yaml", "--output", "there").stdout


def test_check_says_that_a_file_is_in_the_way(directory):
    assert (
        "run.yaml (a file is in its place; choose another)" in call("check", "run.yaml", "--output", "run.yaml").stdout
    )


def test_check_reports_every_problem(directory):
    Path("run.yaml").write_text(GOOD.replace("seconds: 30", "secnds: 30") + "sed: 3\n", encoding="utf-8")
    result = call("check", "run.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith("error: run.yaml:6: flash.secnds: unknown key; did you mean 'seconds'?")
    assert second.startswith("run.yaml:8: sed: unknown key; did you mean 'seed'?")


def test_check_with_limits_that_nothing_satisfies(directory):
    result = call("check", "run.yaml", 'constraints=["num_parameters <= 1e5"]')
    assert result.exit_code == 3
    assert "0 of 36 (num_parameters <= 100000)" in result.stdout
    assert result.stderr.startswith("error: no architecture of the space satisfies num_parameters <= 100000: they have")


def test_check_answers_at_once(directory):
    code = (
        "import sys; from flashdistill.cli import app; app(['check', 'run.yaml'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'botorch', 'optuna'} & set(sys.modules)))"
    )
    started = time.monotonic()
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 3, "0.5 s on an idle machine"
    assert finished.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (NothingFeasibleError("nothing fits"), 3, "error: nothing fits\n"),
        (TargetError("no runtime"), 1, "error: no runtime\n"),
        (PermissionError(13, "Permission denied", "/data/text.txt"), 1, "error: /data/text.txt: Permission denied\n"),
        (OSError(5, "Input/output error"), 1, "error: Input/output error\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command resumes\n"),
    ],
)
def test_expected_ends_have_no_traceback(directory, pipeline, error, code, message):
    pipeline.run = raises(error)
    result = call("run", "run.yaml")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == message


def test_a_bug_shows_its_traceback_and_keeps_it_in_the_log(directory, pipeline):
    def run(config, progress, until):
        progress.attach_log(directory / "log.txt")
        raise KeyError("nonsense")

    pipeline.run = run
    result = call("run", "run.yaml")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert f"(also in {directory}/log.txt)" in result.stderr
    assert result.stderr.endswith("error: unexpected KeyError: 'nonsense'; please report it with the traceback above\n")
    assert "Traceback" in (directory / "log.txt").read_text(encoding="utf-8")


def test_a_missing_configuration(directory):
    result = call("check", "absent.yaml")
    assert (result.exit_code, result.stderr) == (2, "error: absent.yaml: there is no such file\n")


def test_verbs_about_a_run_want_its_directory(directory, pipeline):
    for verb in ("report", "dashboard", "remeasure"):
        result = call(verb, ".")
        assert (result.exit_code, result.stderr) == (2, "error: . is not a run directory: it has no config.yaml\n")
    Path("config.yaml").write_text(GOOD, encoding="utf-8")
    assert call("report", ".").stdout == "report: runs/small/report.html\n"


def fake_module(monkeypatch, name, **functions):
    fake: Any = types.ModuleType(f"flashdistill.{name}")
    for function, value in functions.items():
        setattr(fake, function, value)
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(flashdistill, name, fake, raising=False)


def test_dashboard(directory, monkeypatch):
    served = []

    def serve(run, port, announce):
        served.append((run.path, port))
        announce(f"http://127.0.0.1:{port}/")

    fake_module(monkeypatch, "dashboard_command", serve=serve)
    Path("config.yaml").write_text(GOOD, encoding="utf-8")
    assert call("dashboard", ".", "--port", "9000").stdout == "http://127.0.0.1:9000/\n"
    assert call("dashboard", ".").exit_code == 0
    assert served == [(Path(), 9000), (Path(), 8080)]
    assert call("dashboard", ".", "--port", "70000").exit_code == 2


def test_remeasure(directory, monkeypatch):
    calls = []

    def remeasure(run, output, overrides, progress):
        calls.append((run, output, overrides))
        return Path("runs/other")

    fake_module(monkeypatch, "remeasure_command", remeasure=remeasure)
    Path("config.yaml").write_text(GOOD, encoding="utf-8")
    assert call("remeasure", ".").stdout == "run: runs/other\n"
    assert call("remeasure", ".", "target.threads=4", "--output", "there").exit_code == 0
    assert calls == [(Path(), None, []), (Path(), Path("there"), ["target.threads=4"])]


def test_doctor(directory, monkeypatch):
    found = {"machine": "fast"}
    doctor: Any = types.ModuleType("flashdistill.hardware.doctor")
    doctor.doctor_report = lambda progress: dict(found)
    monkeypatch.setitem(sys.modules, "flashdistill.hardware.doctor", doctor)
    monkeypatch.setattr("flashdistill.terminal_text.doctor_text", json.dumps)
    monkeypatch.setattr("flashdistill.training.speed.bfloat16_speedup", lambda device: None)
    monkeypatch.setattr("flashdistill.training.speed.compile_speedup", lambda device: 1.05)
    told = json.loads(call("doctor").stdout)
    device = told["training"]["device"]
    assert told == {**found, "training": {"device": device, "bfloat16": None, "compile": None}}
    assert call("doctor", "--compile", "--json", "found.json").exit_code == 0
    thorough = {**found, "training": {"device": device, "bfloat16": None, "compile": 1.05}}
    assert json.loads(Path("found.json").read_text(encoding="utf-8")) == thorough
