"""Facts about the machine, the choice of CPUs, the lock, the doctor."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.hardware import device_lock as device_lock_module
from flashdistill.hardware import doctor, machine
from flashdistill.hardware.device_lock import device_lock
from flashdistill.hardware.machine import Contention, choose_cpus, fingerprint
from flashdistill.hardware.parity import check_parity, example_inputs
from flashdistill.hardware.settings import TargetSettings


def test_fingerprint_is_flat_and_stable() -> None:
    facts = fingerprint()
    assert facts == fingerprint()
    assert all(isinstance(value, str | int | float | bool) for value in facts.values())
    assert facts["cpu_model"]
    assert facts["onnxruntime"]
    assert facts["memory_bytes"] > 2**28  # type: ignore[operator]


def test_the_id_depends_on_the_hardware_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = fingerprint()["machine_id"]
    monkeypatch.setattr(machine, "versions", lambda: {"onnxruntime": "99"})
    assert fingerprint()["machine_id"] == here
    monkeypatch.setattr(machine, "cpu_model", lambda: "another")
    assert fingerprint()["machine_id"] != here


@pytest.mark.parametrize(("threads", "chosen"), [(1, [3]), (2, [1, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3])])
def test_whole_cores_first(threads: int, chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "allowed_cpus", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(machine, "_core_of", lambda cpu: "first" if cpu < 2 else "second")
    assert choose_cpus(threads) == chosen


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "allowed_cpus", lambda: [0])
    with pytest.raises(TargetError, match=r"target\.threads is 2, but this process may use 1 CPUs"):
        choose_cpus(2)


def test_what_counts_as_busy() -> None:
    assert not Contention(load=9.0, stalled=None, stolen=0.0).busy
    assert not Contention(load=9.0, stalled=0.1, stolen=0.01).busy
    assert Contention(load=0.0, stalled=0.5, stolen=0.0).busy
    assert Contention(load=0.0, stalled=None, stolen=0.2).busy


def test_a_meter_reports_shares() -> None:
    seen = machine.contention(seconds=0.01)
    assert 0 <= seen.stolen <= 1
    assert seen.stalled is None or 0 <= seen.stalled <= 1


def _hold(directory: Path, held: Event, release: Event) -> None:
    device_lock_module.lock_directory = lambda: directory
    with device_lock("cpu"):
        held.set()
        release.wait(30)


class Releasing(Silent):
    """Lets the other process go as soon as it hears that the lock is waited for."""

    def __init__(self, release: Event):
        self.release = release
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)
        self.release.set()


def test_measurements_wait_for_each_other(own_lock_directory: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(own_lock_directory, held, release))
    holder.start()
    assert held.wait(30)
    progress = Releasing(release)
    with device_lock("cpu", progress):
        assert len(progress.texts) == 1
        assert "another process is measuring on this machine's cpu" in progress.texts[0]
    holder.join()


def test_locks_of_two_devices_are_independent() -> None:
    progress = Releasing(multiprocessing.get_context("spawn").Event())
    with device_lock("cpu", progress), device_lock("cuda", progress):
        pass
    assert progress.texts == []


def test_example_inputs_have_padding_and_two_segments() -> None:
    settings = TargetSettings(batch_size=3, sequence_length=40)
    inputs = example_inputs(settings, vocab_size=100, seed=0)
    assert all(value.shape == (3, 40) and value.dtype == np.int64 for value in inputs.values())
    used = inputs["attention_mask"].sum(axis=1)
    assert ((used >= 20) & (used < 40)).all()
    assert (np.diff(inputs["attention_mask"], axis=1) <= 0).all()
    assert set(inputs["token_type_ids"].ravel()) == {0, 1}
    assert inputs["input_ids"].max() < 100
    again = example_inputs(settings, vocab_size=100, seed=0)
    assert all((again[name] == value).all() for name, value in inputs.items())


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ([], "0 outputs instead of 1"),
        ([np.zeros((2, 2))], r"shape \(2, 2\) instead of \(2, 3\)"),
        ([np.full((2, 3), 10.002)], "off by 0.0002 of its largest value 10"),
        ([np.full((2, 3), np.nan)], "off by nan"),
    ],
)
def test_parity_errors(got: list[np.ndarray], message: str) -> None:
    with pytest.raises(TargetError, match=f"^export: .*{message}"):
        check_parity("512_128_4_512_4", got, [np.full((2, 3), 10.0)])


def test_parity_is_relative_to_the_scale() -> None:
    error = check_parity("a", [np.full((2, 3), 1000.05)], [np.full((2, 3), 1000.0)])
    assert error == pytest.approx(5e-5)


def test_doctor_warns_about_what_it_sees() -> None:
    calm = Contention(0.1, 0.0, 0.0)
    assert doctor.warnings_for({"instructions": "avx2 avx512_bf16"}, 4, calm, 0) == []
    found = doctor.warnings_for({"instructions": "avx2"}, 1, Contention(9.0, 0.6, 0.1), 2**30)
    assert len(found) == 4
    assert "emulated" in found[0]
    assert "only one CPU" in found[1]
    assert "1.0 GiB" in found[2]
    assert "60% of the time tasks wait" in found[3]


def test_doctor_measures_peaks() -> None:
    report = doctor.doctor_report()
    assert report["machine"]["cpu_count"] == os.cpu_count()
    assert 0.1 < doctor.gemm_gflops(64, 0.01) < 1e5
    assert 0.01 < doctor.triad_gb_per_s(100_000, 0.01) < 1e5
    assert report["gemm_gflops"] > 0.1
