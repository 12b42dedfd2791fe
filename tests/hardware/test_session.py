"""Sessions end to end with real processes and the fake target."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Silent
from flashdistill.hardware import runner_process
from flashdistill.hardware.cache import MeasurementCache, measurement_key
from flashdistill.hardware.device_lock import device_lock
from flashdistill.hardware.parity import Expected, example_inputs
from flashdistill.hardware.protocol import log_ratio
from flashdistill.hardware.samples import read_samples
from flashdistill.hardware.session import MeasurementSession, require_target
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.statistics import Block
from flashdistill.testing.fake_target import fake_outputs, write_fake_artifact
from tests.faults_catalogue import fault
from tests.progress_doubles import Messages

pytestmark = pytest.mark.usefixtures("few_passes")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_fake_artifact(tmp_path / "reference.json", 500)


@pytest.fixture
def session(settings: TargetSettings, reference: Path, tmp_path: Path) -> MeasurementSession:
    return MeasurementSession(settings, reference, tmp_path / "work", seed=0)


@fault(1, "SIGKILL of the first runner, that only tells whether the runtime is there", "another one is started, once")
@pytest.mark.parametrize("kills", [1, 2])
def test_the_first_runner_is_started_again(
    settings: TargetSettings, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    original = runner_process.RunnerProcess.wait_until_ready

    def killed(runner: runner_process.RunnerProcess) -> None:
        started.append(runner.pid)
        if len(started) <= kills:
            os.kill(runner.pid, signal.SIGKILL)
        original(runner)

    monkeypatch.setattr(runner_process.RunnerProcess, "wait_until_ready", killed)
    if kills == 1:
        require_target(settings, tmp_path / "work", Silent())
    else:
        with pytest.raises(TargetError, match=r"fake does not start: the first runner ended \(signal 9\)"):
            require_target(settings, tmp_path / "work", Silent())
    assert len(started) == 2


def test_a_candidate_against_the_reference(session: MeasurementSession, expected: Expected, tmp_path: Path) -> None:
    artifact = write_fake_artifact(tmp_path / "candidate.json", 1000)
    measured = session.measure("c", artifact, expected)
    latency = measured["latency_ms"]
    details: Any = latency.details
    # The fake spins for CPU time, which no load on this machine stretches; what it does beside
    # spinning is far below a tenth.
    assert details["clock"] == "cpu"
    assert details["cpu_ratio"] == pytest.approx(2.0, rel=0.1)
    assert details["ratio"] == details["cpu_ratio"]
    assert details["ratio_low"] <= details["ratio"] <= details["ratio_high"]
    assert details["p50_ms"] == pytest.approx(1.0, rel=0.2)
    assert details["reference_ms"] == details["reference_now_ms"] == pytest.approx(0.5, rel=0.2)
    assert latency.value == pytest.approx(details["ratio"] * details["reference_ms"])
    assert latency.stderr is not None
    assert latency.stderr > 0
    assert latency.samples == details["rounds"] >= details["passes"] * 4
    assert latency.unit == "ms"
    assert measured["artifact_bytes"].value == artifact.stat().st_size
    assert 0 <= measured["peak_memory_bytes"].value < 50e6
    assert details["prepare_seconds"] == 0
    assert 0 < details["load_seconds"] < details["parity_seconds"] < details["measure_seconds"]
    environment = latency.environment
    assert environment["runtime"] == "fake"
    assert (environment["batch_size"], environment["sequence_length"], environment["threads"]) == (2, 8, 1)
    assert environment["machine_id"]
    json.dumps({name: dataclasses.asdict(value) for name, value in measured.items()})


def test_ten_percent_are_told_apart(session: MeasurementSession, expected: Expected, tmp_path: Path) -> None:
    slow, fast = (
        session.measure(str(us), write_fake_artifact(tmp_path / f"{us}.json", us), expected)["latency_ms"].value
        for us in (2200, 2000)
    )
    assert slow > fast


def test_a_resumed_study_keeps_its_reference(
    session: MeasurementSession, settings: TargetSettings, reference: Path, expected: Expected, tmp_path: Path
) -> None:
    session._reference.keep(100.0, {})
    resumed = MeasurementSession(settings, reference, tmp_path / "work", seed=0)
    latency = resumed.measure("baseline", reference, expected)["latency_ms"]
    assert resumed.reference_ms == 100.0
    assert latency.value == pytest.approx(100.0, rel=0.1), "the null test"
    assert latency.details["reference_now_ms"] == pytest.approx(0.5, rel=0.2), "the drift stays visible"


@pytest.mark.parametrize("change", [{"sequence_length": 4}, {"batch_size": 1}])
def test_another_targets_reference_is_refused(
    change: dict[str, int], settings: TargetSettings, reference: Path, tmp_path: Path
) -> None:
    first = MeasurementSession(settings, reference, tmp_path / "work", seed=0)
    first._reference.keep(1.0, {})
    other = MeasurementSession(settings.model_copy(update=change), reference, tmp_path / "work", seed=0)
    (field, value), *_ = change.items()
    with pytest.raises(TargetError, match=rf"{field} was \d+, is {value}.*start a new one"):
        _ = other.reference_ms


def test_rules_for_stopping_may_change_in_a_study(settings: TargetSettings, reference: Path, tmp_path: Path) -> None:
    MeasurementSession(settings, reference, tmp_path / "work", seed=0)._reference.keep(1.5, {})
    patient = settings.model_copy(update={"measurement": settings.measurement.model_copy(update={"seconds": 99.0})})
    assert MeasurementSession(patient, reference, tmp_path / "work", seed=0).reference_ms == 1.5


@fault(14, "a runtime that answers otherwise", "refused")
def test_wrong_outputs_are_refused(session: MeasurementSession, expected: Expected, tmp_path: Path) -> None:
    wrong = write_fake_artifact(tmp_path / "wrong.json", 100, offset=0.1)
    with pytest.raises(TargetError, match="export: output 0 of c is off by"):
        session.measure("c", wrong, expected)


@fault(14, "a model that the runtime refuses", "told with its reason")
def test_a_model_the_runtime_refuses(session: MeasurementSession, expected: Expected, tmp_path: Path) -> None:
    refused = write_fake_artifact(tmp_path / "refused.json", 100, refuse="operator Foo is unknown")
    with pytest.raises(TargetError, match=r"^export: c: .*operator Foo is unknown"):
        session.measure("c", refused, expected)


@pytest.mark.parametrize("call", ["load", "infer"])
def test_a_dead_runner_is_restarted_once(
    call: str, settings: TargetSettings, reference: Path, expected: Expected, tmp_path: Path
) -> None:
    messages = Messages()
    session = MeasurementSession(settings, reference, tmp_path / "work", seed=0, progress=messages)
    mark = tmp_path / "crashed"
    artifact = write_fake_artifact(tmp_path / "c.json", 300, crash=call, crash_once=str(mark))
    assert session.measure("c", artifact, expected)["latency_ms"].finite
    assert mark.exists()
    assert any("the candidate runner ended (exit status 9)" in text for text in messages.texts)


def test_a_runner_that_dies_again_is_a_target_error(
    session: MeasurementSession, expected: Expected, tmp_path: Path
) -> None:
    artifact = write_fake_artifact(tmp_path / "c.json", 300, crash="infer")
    with pytest.raises(TargetError, match=r"fake on c: the candidate runner ended \(exit status 9\), for the second"):
        session.measure("c", artifact, expected)


@fault(1, "SIGKILL of the measurement process in a measurement", "measured again")
def test_a_runner_killed_in_mid_measurement(
    settings: TargetSettings,
    reference: Path,
    expected: Expected,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kills = kill_in_pair(monkeypatch, times=1)
    messages = Messages()
    with MeasurementSession(settings, reference, tmp_path / "work", seed=0, progress=messages) as session:
        assert session.measure("c", reference, expected)["latency_ms"].finite
        assert not kills
        # Noticed when it is asked again, or when its answer ends: it takes the kernel a moment.
        assert any(re.search(r"the candidate runner .*signal 9\); measuring it again", text) for text in messages.texts)

        kill_in_pair(monkeypatch, times=2)
        with pytest.raises(TargetError, match=r"fake on c: the candidate runner .*signal 9\), for the second time"):
            session.measure("c", reference, expected)
        with device_lock("cpu"):
            pass


def kill_in_pair(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Kill the candidate's process after its first block in a pass, ``times`` times; what is left to kill."""
    left = list(range(times))
    run = runner_process.RunnerProcess.run

    def killed(self: runner_process.RunnerProcess, count: int) -> Block:
        block = run(self, count)
        if left and self.role == "candidate":
            left.pop()
            os.kill(self.pid, signal.SIGKILL)
        return block

    monkeypatch.setattr(runner_process.RunnerProcess, "run", killed)
    return left


def test_a_candidate_is_prepared_once(
    settings: TargetSettings, reference: Path, expected: Expected, tmp_path: Path, preparations: Path
) -> None:
    first, second = (
        write_fake_artifact(tmp_path / f"{name}.json", us) for name, us in (("first", 300), ("second", 400))
    )
    store = tmp_path / "work" / "serving"
    with MeasurementSession(settings, reference, tmp_path / "work", seed=0) as session:
        measured = session.measure("first", first, expected)
        assert measured["latency_ms"].details["prepare_seconds"] > 0
        assert measured["artifact_bytes"].value == len(first.read_text())
        copy = session.prepare("first", first, tmp_path / "delivery")
        assert copy == tmp_path / "delivery" / "engine"
        assert (copy / "parts" / "plan.json").read_text() == first.read_text()
        with session.serving("first", first) as serve:
            assert np.array_equal(serve(expected.inputs)[0], expected.outputs[0])
        assert preparations.read_text().split() == ["reference.json", "first.json"]
        session.prepare("second", second, tmp_path / "delivery")
        assert len([entry for entry in store.iterdir() if entry.is_dir()]) == 2, "the reference and the present one"
    assert len([entry for entry in store.iterdir() if entry.is_dir()]) == 1, "a resumed study needs the reference"
    with MeasurementSession(settings, reference, tmp_path / "work", seed=0) as resumed:
        resumed.prepare("second", second, tmp_path / "delivery")
        resumed.prepare("the reference", reference, tmp_path / "delivery")
    assert preparations.read_text().split() == ["reference.json", "first.json", "second.json", "second.json"]


def test_what_cannot_be_prepared(
    settings: TargetSettings, reference: Path, expected: Expected, tmp_path: Path, preparations: Path
) -> None:
    refused = write_fake_artifact(tmp_path / "refused.json", 300)
    with (
        MeasurementSession(settings, reference, tmp_path / "work", seed=0) as session,
        pytest.raises(TargetError, match=r"^export: c: operator Foo cannot be quantised$"),
    ):
        session.measure("c", refused, expected)
    assert preparations.exists()


def test_what_is_served_as_exported_is_not_copied(session: MeasurementSession, reference: Path, tmp_path: Path) -> None:
    assert session.prepare("baseline", reference, tmp_path / "delivery") == reference
    assert not (tmp_path / "delivery").exists()


def test_serving_many_batches(
    session: MeasurementSession, settings: TargetSettings, reference: Path, own_lock_directory: Path
) -> None:
    larger = settings.model_copy(update={"batch_size": 5, "sequence_length": 7})
    with session.serving("baseline", reference, larger) as serve:
        for seed in range(3):
            inputs = example_inputs(larger, vocab_size=50, seed=seed)
            assert np.array_equal(serve(inputs)[0], fake_outputs(inputs)[0])
        with (own_lock_directory / "cpu.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@fault(7, "a model that crashes the serving runtime", "that candidate failed")
def test_a_crash_while_serving(session: MeasurementSession, expected: Expected, tmp_path: Path) -> None:
    artifact = write_fake_artifact(tmp_path / "c.json", 300, crash="infer")
    with (
        pytest.raises(TargetError, match=r"fake on c: the serving runner ended \(exit status 9\)"),
        session.serving("c", artifact) as serve,
    ):
        serve(expected.inputs)


def test_a_key_speaks_of_the_machine_that_serves(session: MeasurementSession) -> None:
    architecture, family = Architecture(128, 64, 4, 384, 2), StudentFamily()
    baseline = architecture, family
    here = session.key(architecture, family, baseline)
    assert here == measurement_key(architecture, family, baseline, session.settings, session.machine)
    session.machine = {**session.machine, "machine_id": "another"}
    assert session.key(architecture, family, baseline) != here


def test_native_chatter_does_not_disturb(session: MeasurementSession, expected: Expected, tmp_path: Path) -> None:
    artifact = write_fake_artifact(tmp_path / "c.json", 300, chatter='{"error": "not an answer"}\n')
    assert session.measure("c", artifact, expected)["latency_ms"].finite


def test_recall_speaks_of_this_studys_reference(
    settings: TargetSettings, reference: Path, expected: Expected, tmp_path: Path
) -> None:
    cache = MeasurementCache(tmp_path / "cache")
    precise = settings.model_copy(
        update={"measurement": settings.measurement.model_copy(update={"tolerance": 0.9, "seconds": 20.0})}
    )
    first = MeasurementSession(precise, reference, tmp_path / "first", seed=0, cache=cache)
    measured = first.measure("baseline", reference, expected, key="k")["latency_ms"]

    fresh = MeasurementSession(precise, reference, tmp_path / "second", seed=0, cache=cache)
    recalled = fresh.recall("k")
    assert recalled is not None
    assert recalled["latency_ms"].value == measured.value
    assert fresh.reference_ms == first.reference_ms, "adopted, so that later measurements fit"

    other = MeasurementSession(precise, reference, tmp_path / "third", seed=0, cache=cache)
    assert first.reference_ms is not None
    other._reference.keep(2 * first.reference_ms, {})
    recalled = other.recall("k")
    assert recalled is not None
    latency = recalled["latency_ms"]
    assert latency.value == pytest.approx(2 * measured.value)
    assert latency.stderr == pytest.approx(2 * (measured.stderr or math.nan))
    assert latency.details["reference_ms"] == pytest.approx(2 * first.reference_ms)
    assert other.recall("unknown") is None


def test_what_is_not_precise_enough_is_not_recalled(settings: TargetSettings, reference: Path, tmp_path: Path) -> None:
    cache = MeasurementCache(tmp_path / "cache")
    session = MeasurementSession(settings, reference, tmp_path / "work", seed=0, cache=cache)
    details = {"ratio": 1.0, "ratio_high": 1.4, "reference_ms": 2.0}
    latency = Measurement("latency_ms", 2.0, "ms", 0.1, details=details)
    cache.put("k", {"latency_ms": latency, "latency_p50_ms": Measurement.of("latency_p50_ms", 2.0, samples=100)})
    assert session.recall("k") is not None, "within the tolerance of 0.5"
    assert session.recall("k", final=True) is None, "outside the final tolerance of 0.01"
    for wanted, known in ((100, True), (101, False)):
        session = MeasurementSession(settings, reference, tmp_path / "work", seed=0, cache=cache, min_calls=wanted)
        assert (session.recall("k") is not None) == known


def test_raw_samples_are_kept(settings: TargetSettings, reference: Path, expected: Expected, tmp_path: Path) -> None:
    session = MeasurementSession(settings, reference, tmp_path / "work", seed=0, min_calls=100_000)
    measured = session.measure("a/b", reference, expected)
    samples = read_samples(tmp_path / "work" / "samples" / "a_b.parquet")
    ratio = math.exp(log_ratio(samples.passes, "cpu").mean)
    assert ratio == pytest.approx(float(measured["latency_ms"].details["ratio"] or 0), rel=1e-12)
    assert samples.metadata["architecture"] == "a/b"
    assert samples.metadata["environment"]["machine_id"] == session.machine["machine_id"]
    assert measured["latency_p50_ms"].samples > 0
    assert measured["latency_ms"].details["noisy"], "the calls that were asked for are not there"


def test_more_threads_than_cpus(settings: TargetSettings, reference: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"target\.threads is 5000, .* lower target\.threads"):
        MeasurementSession(settings.model_copy(update={"threads": 5000}), reference, tmp_path, seed=0)


def test_nothing_is_left_behind(settings: TargetSettings, reference: Path, expected: Expected, tmp_path: Path) -> None:
    with MeasurementSession(settings, reference, tmp_path / "work", seed=0) as session:
        session.measure("baseline", reference, expected)
        assert (tmp_path / "work" / "scratch").exists()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["reference.json", "samples"]


def test_inputs_of_another_shape_are_our_bug(session: MeasurementSession, reference: Path) -> None:
    with pytest.raises(AssertionError, match="another shape"):
        session.measure("baseline", reference, Expected({"input_ids": np.zeros((1, 3), dtype=np.int64)}, []))
