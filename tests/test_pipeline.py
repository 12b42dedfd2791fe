"""The whole pipeline on a tiny configuration: delivered models, resumption, bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from flashdistill import pipeline
from flashdistill.config import load_config
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import (
    CorpusError,
    InputError,
    NothingFeasibleError,
    RunDirectoryError,
    TeacherError,
)
from flashdistill.core.progress import Silent
from flashdistill.core.trial import TrialState
from flashdistill.delivery.record import RunRecord
from flashdistill.measure_command import measure
from tests.faults_catalogue import fault
from tests.tiny_run import in_directory, write_run
from tests.two_processes import flashdistill_in_two_processes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with text, configuration and a finished run."""
    directory = tmp_path_factory.mktemp("whole run")
    write_run(directory)
    with in_directory(directory):
        pipeline.run(load_config(Path("tiny.yaml")), Silent())
    return directory


def tiny(directory: Path, *overrides: str, output: str = "other"):  # type: ignore[no-untyped-def]
    """The tiny configuration with other settings; absolute paths, its own output, the shared cache."""
    return load_config(
        directory / "tiny.yaml",
        [
            f'corpus.source={{files: "{directory}/text*.txt"}}',
            f"output={directory / output}",
            f"cache={directory / 'cache'}",
            *overrides,
        ],
    )


def test_a_run_has_what_it_promises(finished: Path) -> None:
    run = finished / "run"
    record = RunRecord.load(run)
    assert [trial.number for trial in record.trials] == [0, 1, 2, 3]
    assert all(trial.state is TrialState.COMPLETE for trial in record.trials)
    assert len({trial.architecture for trial in record.trials}) == 4
    for trial in record.trials:
        assert {"mlm_accuracy", "mlm_loss", "nsp_accuracy", "latency_ms", "num_parameters"} <= set(trial.measurements)
    assert record.front
    students = [model for model in record.delivered if not model.is_baseline]
    assert len(students) == 1
    assert record.delivered_baseline is not None
    for name in ("report.html", "results.json", "config.yaml", "log.txt", "study.db", "plots"):
        assert (run / name).exists() or name == "log.txt"
    assert not (run / "signals").exists()
    resolved = load_config(run / "config.yaml")
    assert resolved.flash.steps_per_block == 2


def test_a_delivered_student_gives_the_same_logits_everywhere(finished: Path) -> None:
    model = RunRecord.load(finished / "run").delivered[0]
    directory = finished / "run" / model.directory
    tokenizer = AutoTokenizer.from_pretrained(directory)
    encoded = tokenizer("The cat sees [MASK] today.", "A dog likes a song again.", return_tensors="pt")
    student = AutoModelForMaskedLM.from_pretrained(directory).eval()
    with torch.no_grad():
        logits = student(**encoded).logits.numpy()
        features = student.mobilebert(**encoded).last_hidden_state.numpy()
    inputs = {name: value.numpy() for name, value in encoded.items()}
    for file, expected in (("model.onnx", logits), ("encoder.onnx", features)):
        session = onnxruntime.InferenceSession(directory / file, providers=["CPUExecutionProvider"])
        feeds = {wanted.name: inputs[wanted.name] for wanted in session.get_inputs()}
        assert np.abs(session.run(None, feeds)[0] - expected).max() <= 1e-4
    assert model.parity_max_abs is not None
    assert model.parity_max_abs <= 1e-4


def test_the_same_command_again_changes_nothing(finished: Path) -> None:
    before = (finished / "run" / "results.json").read_text()
    started = time.monotonic()
    with in_directory(finished):
        pipeline.run(load_config(Path("tiny.yaml")), Silent())
    after = json.loads((finished / "run" / "results.json").read_text())
    assert after["trials"] == json.loads(before)["trials"]
    assert after["delivered"] == json.loads(before)["delivered"]
    assert time.monotonic() - started < 30


def test_a_search_can_be_extended(finished: Path) -> None:
    config = tiny(finished, output="extended")
    pipeline.run(config, Silent(), until="search")
    pipeline.run(tiny(finished, "search.trials=4", output="extended"), Silent(), until="search")
    record = RunRecord.load(finished / "extended")
    assert len(record.trials) == 5
    assert not record.delivered


KILLED = """
import os, re, signal, sys
from pathlib import Path
from flashdistill import pipeline
from flashdistill.config import load_config
from flashdistill.core.progress import Silent
import torch; torch.set_num_threads(1)

class Killer(Silent):
    def start(self, task, total=None):
        self.where(task)
    def advance(self, task, steps=1, note=""):
        self.where(f"{task}/{note}")
    def message(self, text):
        self.where(text)
    def where(self, text):
        if re.search(sys.argv[1], text):
            os.kill(os.getpid(), signal.SIGKILL)

pipeline.run(load_config(Path("tiny.yaml"), sys.argv[2:]), Killer())
"""


MOMENTS = {
    "the teacher's pre-training": "^pre-train the teacher/masked LM",
    "a measurement": "^measure",
    "a stage": "/block 2",
    "between trials": "^trial 2",
    "regular distillation": "^regular.*/pre-training",
    "delivery": "^deliver",
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
@fault(1, "SIGKILL of a run in each of its phases")
def test_killed_anywhere_the_same_command_finishes(finished: Path, tmp_path: Path, moment: str) -> None:
    write_run(tmp_path)
    # A prepared teacher from the finished run's cache, unless its preparation is what is killed.
    cache = tmp_path / "cache" if "teacher" in moment else finished / "cache"
    overrides = [f"cache={cache}"]
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, moment, *overrides], cwd=tmp_path, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "results.json").exists() or "deliver" in moment or "regular" in moment
    with in_directory(tmp_path):
        pipeline.run(load_config(Path("tiny.yaml"), overrides), Silent())
    record, expected = RunRecord.load(tmp_path / "run"), RunRecord.load(finished / "run")
    assert [trial.number for trial in record.trials] == [trial.number for trial in expected.trials]
    assert {t.state for t in record.trials} == {TrialState.COMPLETE}
    # Latencies differ from run to run and with them the suggestions; the baseline's training does not.
    assert record.trials[0].value("mlm_loss") == expected.trials[0].value("mlm_loss")
    assert len(record.delivered) == len(expected.delivered)


def test_students_side_by_side_are_those_of_one_after_the_other(finished: Path) -> None:
    """The same baseline, and the same student for every architecture that both searches tried."""
    config = tiny(finished, "flash.students_per_teacher=2", "signals.disk_gib=0", output="side by side")
    pipeline.run(config, Silent(), until="search")
    record, expected = RunRecord.load(finished / "side by side"), RunRecord.load(finished / "run")
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE}
    known = {trial.architecture: trial.value("mlm_loss") for trial in expected.trials}
    common = [trial for trial in record.trials if trial.architecture in known]
    assert len(common) >= 2
    for trial in common:
        assert trial.value("mlm_loss") == known[trial.architecture]


def test_two_processes_do_a_whole_run_together(finished: Path) -> None:
    done = flashdistill_in_two_processes("run", "tiny.yaml", "--output", "together", directory=finished)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "report: together/report.html\n"
    record, expected = RunRecord.load(finished / "together"), RunRecord.load(finished / "run")
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE}
    assert len(record.delivered) == len(expected.delivered)
    assert record.trials[0].value("mlm_loss") == pytest.approx(expected.trials[0].value("mlm_loss"), rel=1e-3)


def test_one_architecture_can_be_distilled_alone(finished: Path) -> None:
    directory = pipeline.distill(tiny(finished, output="single"), Architecture.parse("16_8_1_16_1"), Silent())
    assert (directory / "model.onnx").is_file()
    assert (directory / "README.md").is_file()


def test_architectures_can_be_measured_alone(finished: Path) -> None:
    [(architecture, measured)] = measure(tiny(finished), [Architecture.parse("16_8_1_16_1")], Silent())
    assert str(architecture) == "16_8_1_16_1"
    assert measured["latency_ms"].value > 0


@fault(12, "size limit below the smallest", "refused before any work")
def test_limits_on_the_size_that_nothing_meets_stop_before_any_work(finished: Path) -> None:
    with pytest.raises(NothingFeasibleError, match=r"none of the .* satisfies num_parameters <= 10: the smallest, "):
        pipeline.run(tiny(finished, "constraints=[num_parameters <= 10]", output="never"), Silent())
    assert not (finished / "never").exists()


@fault(12, "latency limit below the fastest", "exit 3 with the nearest")
def test_limits_on_the_latency_that_nothing_meets_name_the_nearest(finished: Path) -> None:
    config = tiny(finished, "constraints=[latency_ms <= 0.01x]", "search.trials=1", output="too slow")
    with pytest.raises(NothingFeasibleError, match="the nearest:\n  .*latency_ms = .* breaks latency_ms <= 0.01x"):
        pipeline.run(config, Silent())
    record = RunRecord.load(finished / "too slow")
    assert {trial.state for trial in record.students} == {TrialState.INFEASIBLE}
    assert (finished / "too slow" / "report.html").exists()


def test_a_directory_of_another_configuration_is_refused(finished: Path) -> None:
    with in_directory(finished), pytest.raises(RunDirectoryError, match="flash.learning_rate: was 0.002, is 0.004"):
        pipeline.run(load_config(Path("tiny.yaml"), ["flash.learning_rate=0.004"]), Silent())


def test_a_directory_of_something_else_is_refused(finished: Path) -> None:
    (finished / "photos").mkdir()
    (finished / "photos" / "cat.jpg").touch()
    with pytest.raises(RunDirectoryError, match="not empty and not a run's directory"):
        pipeline.run(tiny(finished, output="photos"), Silent())


@fault(8, "the command given twice")
def test_a_directory_in_use_is_refused(finished: Path) -> None:
    run = pipeline.RunDirectory(finished / "run")
    with run.locked(), in_directory(finished), pytest.raises(RunDirectoryError, match=r"is in use by process \d+"):
        pipeline.run(load_config(Path("tiny.yaml")), Silent())


@fault(9, "a run without its text")
def test_missing_text(finished: Path) -> None:
    with pytest.raises(CorpusError, match=r"nothing.*\.txt"):
        pipeline.run(tiny(finished, f'corpus.source={{files: "{finished}/nothing*.txt"}}', output="no text"), Silent())


def teacher_directory(directory: Path, *, tokenizer: bool = True) -> Path:
    """A BERT encoder without a masked-LM head."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz."]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(directory)
    if tokenizer:
        BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(str(directory))
    return directory


def with_teacher(finished: Path, directory: Path, output: str, *overrides: str):  # type: ignore[no-untyped-def]
    return tiny(finished, f"teacher={{model: {json.dumps(str(directory))}}}", *overrides, output=output)


@fault(11, "a run's teacher without masked-LM head", "refused, or fitted and reported")
def test_a_teacher_without_a_head_needs_one_fitted(finished: Path, tmp_path: Path) -> None:
    directory = teacher_directory(tmp_path / "encoder")
    with pytest.raises(TeacherError, match=r"has no masked-LM head; set teacher.fit_mlm_head"):
        pipeline.run(with_teacher(finished, directory, "headless"), Silent())
    config = with_teacher(finished, directory, "fitted", "teacher.fit_mlm_head={steps: 5}", "search.trials=0")
    pipeline.run(config, Silent(), until="search")
    record = RunRecord.load(finished / "fitted")
    assert record.teacher is not None
    assert record.teacher.preparation == "masked-LM head fitted with all weights, 5 steps"
    assert any("head fitted" in note for note in record.notes)


@fault(11, "teacher without tokenizer", "refused")
def test_a_teacher_without_a_tokenizer(finished: Path, tmp_path: Path) -> None:
    directory = teacher_directory(tmp_path / "bare", tokenizer=False)
    with pytest.raises(TeacherError, match="no tokenizer in"):
        pipeline.run(with_teacher(finished, directory, "bare"), Silent())


@fault(11, "teacher for shorter sequences than the text's", "refused")
def test_a_teacher_too_short_for_the_text(finished: Path, tmp_path: Path) -> None:
    directory = teacher_directory(tmp_path / "short")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16}))
    with pytest.raises(InputError, match="takes at most 16 tokens, but corpus.max_length is 32"):
        pipeline.run(with_teacher(finished, directory, "short"), Silent())
