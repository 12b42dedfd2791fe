"""Exports appear complete or not at all; measurements come back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.measurement import Measurement
from flashdistill.hardware.cache import (
    MeasurementCache,
    artifact_key,
    cached_artifact,
    measurement_key,
)
from flashdistill.hardware.machine import Facts
from flashdistill.hardware.settings import MeasurementSettings, TargetSettings
from tests.faults_catalogue import fault

ARCHITECTURE = Architecture(128, 64, 4, 384, 2)


def test_written_once(tmp_path: Path) -> None:
    calls = []

    def write(path: Path) -> None:
        calls.append(path)
        path.write_text("weights")

    first = cached_artifact(tmp_path / "exports", "key", write)
    assert cached_artifact(tmp_path / "exports", "key", write) == first
    assert first.read_text() == "weights"
    assert len(calls) == 1
    assert calls[0] != first, "written elsewhere and moved"


def test_files_beside_the_artifact_come_along(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("graph")
        path.with_name(f"{path.name}.data").write_text("weights")

    artifact = cached_artifact(tmp_path, "key", write, "encoder.onnx")
    assert artifact.name == "encoder.onnx"
    assert artifact.with_name("encoder.onnx.data").read_text() == "weights"


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("half of the")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError):
        cached_artifact(tmp_path, "key", write)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    def fast(path: Path) -> None:
        path.write_text("fast")

    def slow(path: Path) -> None:
        cached_artifact(tmp_path, "key", fast)
        path.write_text("slow")

    assert cached_artifact(tmp_path, "key", slow).read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_an_export_depends_on_what_shapes_the_graph() -> None:
    family = StudentFamily()
    keys = {
        artifact_key(ARCHITECTURE, family, "onnxruntime"),
        artifact_key(ARCHITECTURE, family.with_vocab_size(100), "onnxruntime"),
        artifact_key(ARCHITECTURE, family, "torch"),
        artifact_key(ARCHITECTURE, family, "onnxruntime", "mlm"),
        artifact_key(Architecture(128, 64, 2, 384, 2), family, "onnxruntime"),
    }
    assert len(keys) == 5
    assert artifact_key(ARCHITECTURE, StudentFamily(), "onnxruntime") in keys


BASELINE = ARCHITECTURE, StudentFamily()
MACHINE: Facts = {"machine_id": "a", "cpu_model": "x", "onnxruntime": "1", "torch": "2", "gpu_model": "G"}


def test_a_measurement_depends_on_the_target_and_not_on_the_rules_for_stopping() -> None:
    def key(baseline: tuple[Architecture, StudentFamily] = BASELINE, **settings: object) -> str:
        target = TargetSettings.model_validate(settings)
        return measurement_key(ARCHITECTURE, StudentFamily(), baseline, target, MACHINE)

    assert key() == key(measurement=MeasurementSettings(seconds=99.0)) == key(host="gpu-server", python="python3.12")
    assert len({key(), key(sequence_length=64), key(batch_size=8), key(runtime="fake")}) == 4
    assert key((Architecture(64, 64, 4, 384, 2), StudentFamily())) != key()
    assert key((ARCHITECTURE, StudentFamily(num_blocks=2))) != key()


def test_a_measurement_depends_on_the_machine_that_serves() -> None:
    def key(runtime: str = "onnxruntime", **other: str) -> str:
        target = TargetSettings(runtime=runtime)
        return measurement_key(ARCHITECTURE, StudentFamily(), BASELINE, target, {**MACHINE, **other})

    assert key() == key(torch="3") == key(kernel="6")
    changes = [key(machine_id="b"), key(onnxruntime="9"), key(gpu_model="H"), key(cpus_allowed="1"), key("torch")]
    assert len({key(), *changes, key("torch", torch="3"), key(**{"onnxruntime-gpu": "1"})}) == 8


def test_measurements_come_back(tmp_path: Path) -> None:
    cache = MeasurementCache(tmp_path)
    stored = {"latency_ms": Measurement("latency_ms", 1.25, "ms", 0.01, 48, {"threads": 1}, {"ratio": 0.9})}
    assert cache.get("key") is None
    cache.put("key", stored)
    assert cache.get("key") == stored


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"latency_ms": {"unknown": 1}}'])
@fault(4, "kept measurement damaged", "measured again")
def test_a_damaged_entry_counts_as_absent(damage: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(damage)
    assert MeasurementCache(tmp_path).get("key") is None


@fault(4, "one digit of a kept measurement changed", "measured again")
def test_a_changed_digit_counts_as_absent(tmp_path: Path) -> None:
    cache = MeasurementCache(tmp_path)
    cache.put("key", {"latency_ms": Measurement("latency_ms", 1.25, "ms")})
    path = tmp_path / "key.json"
    path.write_text(path.read_text().replace("1.25", "1.35"))
    assert cache.get("key") is None
