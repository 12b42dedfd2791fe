"""What the hardware does to a run: several targets, wrong exports, killed runners."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest

from flashdistill import pipeline
from flashdistill.config import RunConfig, load_config
from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.core.trial import TrialState
from flashdistill.delivery import export
from flashdistill.delivery.record import RunRecord
from flashdistill.hardware.samples import read_samples
from flashdistill.models.onnx_writer import write_onnx
from tests.faults_catalogue import fault
from tests.progress_doubles import Messages
from tests.tiny_run import in_directory, write_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with text and configuration, in which the tests' runs share a cache."""
    directory = tmp_path_factory.mktemp("hardware")
    write_run(directory)
    with in_directory(directory):
        yield directory


def tiny(output: str, *overrides: str) -> RunConfig:
    return load_config(Path("tiny.yaml"), [f"output={output}", *overrides])


def test_int8_and_float32_in_one_run(place: Path) -> None:
    config = tiny(
        "served",
        "target.precision=int8",
        "further_targets={float32: {precision: float32}, batch4: {batch_size: 4}}",
        "objectives=[{maximize: served_mlm_accuracy}, {minimize: latency_ms}, {maximize: throughput_per_s@batch4}]",
        'constraints=["latency_ms@float32 <= 100x"]',
        "search.trials=2",
    )
    pipeline.run(config, Silent())
    record = RunRecord.load(place / "served")
    assert {trial.state for trial in record.trials} == {TrialState.COMPLETE}
    for trial in record.trials:
        served, own = trial.measurements["served_mlm_accuracy"], trial.value("mlm_accuracy")
        assert own is not None
        assert served.value + float(served.details["accuracy_cost"] or 0) == pytest.approx(own)
        assert 0.5 < float(served.details["agreement"] or 0) <= 1
        assert "served_mlm_accuracy@batch4" in trial.measurements
        assert "served_mlm_accuracy@float32" not in trial.measurements
        assert trial.measurements["latency_ms"].environment["precision"] == "int8"
        assert trial.measurements["latency_ms@float32"].environment["precision"] == "float32"
    students = [model for model in record.delivered if not model.is_baseline]
    assert "served_mlm_accuracy" in students[0].measurements
    quantised = place / "served" / students[0].directory / "serving" / "onnxruntime-int8" / "model.onnx"
    session = onnxruntime.InferenceSession(quantised, providers=["CPUExecutionProvider"])
    ones = np.ones((1, 8), dtype=np.int64)
    assert session.run(None, {port.name: ones for port in session.get_inputs()})[0].shape[:2] == (1, 8)
    html = (place / "served" / "report.html").read_text(encoding="utf-8")
    assert "Latency on float32" in html
    assert "Throughput on batch4" in html
    samples = read_samples(next((place / "served" / "measurements" / "batch4" / "samples").glob("*.parquet")))
    assert len(samples.passes) >= 4


@pytest.mark.parametrize("fault", ["raises", "answers wrongly"])
@fault(14, "an export that raises or answers otherwise, in a run")
def test_a_bad_export_is_that_candidates_failure(place: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    spoilt: list[str] = []

    def spoiling(student, path, outputs="encoder"):  # type: ignore[no-untyped-def]
        """Write the first student that is not the baseline wrongly."""
        if (student.config.hidden_size == 32 and student.config.num_feedforward_networks == 2) or len(spoilt) > 0:
            return write_onnx(student, path, outputs)
        spoilt.append(str(path))
        if fault == "raises":
            raise ValueError("a node that nobody knows")
        student.mobilebert.encoder.layer[0].output.dense.weight.data.mul_(1.5)
        write_onnx(student, path, outputs)
        return student.mobilebert.encoder.layer[0].output.dense.weight.data.div_(1.5)

    monkeypatch.setattr(export, "write_onnx", spoiling)
    # A vocabulary of its own keeps these exports out of the other tests' cache.
    config = tiny(f"spoilt {fault}", f"cache=cache-of-{fault.split()[0]}", "search.trials=3")
    pipeline.run(config, Silent(), until="search")
    record = RunRecord.load(place / f"spoilt {fault}")
    failed = [trial for trial in record.trials if trial.state is TrialState.FAILED]
    assert len(spoilt) == 1
    assert len(failed) == 1
    assert failed[0].reason.startswith("export")
    assert failed[0].number not in record.front
    assert sum(trial.state is TrialState.COMPLETE for trial in record.students) == 2, "the search goes on"


@contextmanager
def killing_runners(times: int) -> Iterator[list[int]]:
    """Kill -9 runner processes of this one, some while after they started, the given number of times."""
    killed: list[int] = []
    done = threading.Event()

    def hunt() -> None:
        ages: dict[int, int] = {}
        while not done.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                with_pid = ages.setdefault(child.pid, 0)
                ages[child.pid] = with_pid + 1
                try:
                    is_runner = "flashdistill.hardware.runner" in child.cmdline()
                except psutil.Error:
                    continue
                # Loaded and timing by now, or about to: the reference and the candidate run side by side.
                if is_runner and ages[child.pid] > 20 and len(killed) < times and child.pid not in killed:
                    killed.append(child.pid)
                    child.send_signal(signal.SIGKILL)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield killed
    finally:
        done.set()
        hunter.join()


@pytest.mark.parametrize(("kills", "survives"), [(1, True), (1000, False)])
@fault(
    1,
    "SIGKILL of the measurement process in a run",
    "measured again; killed again and again, that trial failed and the search went on",
)
def test_a_killed_runner(place: Path, kills: int, survives: bool) -> None:
    messages = Messages()
    output = f"killed {kills}"
    budget = "target.measurement={seconds: 3, block_ms: 20, tolerance: 0.9, patience_seconds: 0}"
    config = tiny(output, budget, "search.trials=2", f"cache=cache-of-{kills}-kills")

    class During(Messages):
        """Starts killing when the first student is measured, and stops when it has been."""

        def start(self, task: str, total: int | None = None) -> None:
            if task.startswith("measure ") and str(config.baseline) not in task and not hunts:
                hunts.append(killing_runners(kills))
                hunts[0].__enter__()

        def finish(self, task: str) -> None:
            if task.startswith("measure ") and len(hunts) == 1:
                hunts[0].__exit__(None, None, None)
                hunts.append(None)

    hunts: list = []
    messages = During()
    pipeline.run(config, messages, until="search")
    record = RunRecord.load(place / output)
    first, second = record.students
    assert any(re.search(r"runner .*signal 9\).*; measuring it again", text) for text in messages.texts)
    assert first.state is (TrialState.COMPLETE if survives else TrialState.FAILED)
    if not survives:
        assert "for the second time" in first.reason
        assert first.number not in record.front
    assert second.state is TrialState.COMPLETE, "the search goes on"
    assert Architecture.parse(str(second.architecture)) == second.architecture


def test_a_missing_runtime_is_noticed_before_any_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = place / "without openvino" / "openvino"
    without.mkdir(parents=True)
    (without / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(without.parent))
    config = tiny("missing", "further_targets={intel: {runtime: openvino}}", "cache=cache-of-nothing")
    with pytest.raises(TargetError, match=r"pip install 'flashdistill\[openvino\]'"):
        pipeline.run(config, Silent())
    assert not (place / "cache-of-nothing").exists(), "no teacher was prepared"
