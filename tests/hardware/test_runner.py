"""Runner processes: the lines they speak, and that none outlives its coordinator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.hardware.hosts import LocalHost
from flashdistill.hardware.lines import Conversation, RunnerDiedError, pack, unpack
from flashdistill.hardware.parity import Expected
from flashdistill.hardware.runner import Runner
from flashdistill.hardware.runner_process import RunnerProcess
from flashdistill.hardware.settings import TargetSettings
from flashdistill.testing.fake_target import write_fake_artifact


@pytest.fixture
def runner(settings: TargetSettings, tmp_path: Path) -> Iterator[RunnerProcess]:
    host = LocalHost(tmp_path / "store", Silent())
    with RunnerProcess(host, settings, [], tmp_path, "candidate") as runner:
        runner.wait_until_ready()
        yield runner


def test_arrays_travel_in_lines() -> None:
    arrays = {"b": np.arange(6, dtype=np.int64).reshape(2, 3), "a": np.array([np.nan, 1.5], dtype=np.float32)}
    back = unpack(json.loads(json.dumps(pack(arrays))))
    assert list(back) == ["b", "a"]
    for name, value in arrays.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype
    ordered = [np.array([index]) for index in range(12)]
    assert [int(array[0]) for array in unpack(pack(ordered)).values()] == list(range(12))


def test_a_large_answer(runner: RunnerProcess, tmp_path: Path) -> None:
    """Larger than any pipe's buffer, in both directions."""
    runner.load(str(write_fake_artifact(tmp_path / "m.json", 1)))
    ids = np.random.default_rng(0).integers(0, 50, (400, 1000))
    [output] = runner.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    np.testing.assert_array_equal(output, ids.astype(np.float32))


def test_a_failure_says_what_it_is_and_the_runner_goes_on(
    runner: RunnerProcess, expected: Expected, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match=r"fake cannot load .*absent"):
        runner.load(str(tmp_path / "absent"))
    runner.load(str(write_fake_artifact(tmp_path / "m.json", 1)))
    with pytest.raises(TargetError, match="KeyError: 'input_ids'"):
        runner.infer({})
    assert np.array_equal(runner.infer(expected.inputs)[0], expected.outputs[0])
    assert runner.statistics()["peak_memory_bytes"] >= 0
    assert len(runner.run(5).wall_ms) == 4


def test_what_serving_does_not_need_is_not_in_the_peak(runner: RunnerProcess, tmp_path: Path) -> None:
    runner.load(str(write_fake_artifact(tmp_path / "m.json", 1)))
    ids = np.ones((512, 1024), dtype=np.int64)
    runner.infer({"input_ids": ids, "attention_mask": ids})
    first = runner.statistics()["peak_memory_bytes"]
    runner.infer({"input_ids": ids, "attention_mask": ids})
    assert runner.statistics()["peak_memory_bytes"] == first


def test_a_device_call_is_timed_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    device_timing = pytest.importorskip("flashdistill.hardware.device_timing")
    monkeypatch.setattr(device_timing, "time_device_calls", lambda call, count: ([call()] * count, [0] * count))
    runner = Runner({"runtime": "fake"}, [])
    runner._target.device_call = lambda: 7  # type: ignore[assignment,return-value]
    assert runner.run(3) == {"wall_ns": [7, 7, 7], "cpu_ns": [0, 0, 0]}


def test_a_preparation_is_complete_or_made_again(settings: TargetSettings, preparations: Path, tmp_path: Path) -> None:
    artifact = write_fake_artifact(tmp_path / "m.json", 1)
    place = tmp_path / "store" / "key"
    place.mkdir(parents=True)
    (place / "half an engine").touch()
    runner = Runner(settings.model_dump(), [])
    made = runner.prepare(str(artifact), str(place))
    assert made["artifact"] == str(place / "engine")
    assert not (place / "half an engine").exists()
    assert runner.prepare(str(artifact), str(place)) == made
    assert preparations.read_text().split() == ["m.json"]


def test_a_runner_that_hangs_is_given_up(runner: RunnerProcess, expected: Expected, tmp_path: Path) -> None:
    runner.load(str(write_fake_artifact(tmp_path / "m.json", 60e6)))
    conversation = runner._conversation
    with pytest.raises(RunnerDiedError, match=r"the candidate runner did not answer in time \(signal 9\)"):
        conversation.ask("infer", 0.2, inputs=pack(expected.inputs))


def test_messages_and_greetings_come_before_answers(tmp_path: Path) -> None:
    code = """
print('Welcome!')
print('[1, 2]')
print('{"message": "waiting"}')
print('{"ready": true}', flush=True)
input()
print('{"error": "no"}')
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    told: list[str] = []
    conversation = Conversation(process, "agent", tmp_path / "log", "on gpu: ", told.append)
    assert conversation.wait_until_ready() == {"ready": True}
    assert told == ["on gpu: waiting"]
    with pytest.raises(TargetError, match=r"^on gpu: no$"):
        conversation.ask("anything")
    conversation.close()


def test_a_working_runner_ends_with_its_coordinator(settings: TargetSettings, tmp_path: Path) -> None:
    """Also in the middle of a call that would take an hour."""
    artifact = write_fake_artifact(tmp_path / "m.json", 3600e6)
    argument = json.dumps({"settings": settings.model_dump(mode="json"), "cpus": []})
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "flashdistill.hardware.runner", argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    ids = np.ones((2, 8), dtype=np.int64)
    inputs = pack({"input_ids": ids, "attention_mask": ids})
    for request in ({"do": "load", "artifact": str(artifact)}, {"do": "infer", "inputs": inputs}):
        process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.close()
    assert process.wait(timeout=30) == 1
