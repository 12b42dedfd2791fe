"""Facts about the machine, the choice of CPUs, the lock."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.hardware import device_lock as device_lock_module
from flashdistill.hardware import machine
from flashdistill.hardware.device_lock import device_lock
from flashdistill.hardware.machine import Contention, choose_cpus, fingerprint


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


class Kernel:
    """What the kernel's files say; the others are not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.files: dict[str, str] = {}
        monkeypatch.setattr(machine, "_read", lambda path: self.files.get(str(path), ""))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_a_silent_kernel(kernel: Kernel) -> None:
    assert kernel.files == {}
    assert machine.cpu_quota() is None
    assert machine.frequency_control() == {}
    assert machine.clock_source() is None
    assert machine.huge_pages() == "unknown"
    assert machine.stalled_share() is None
    assert machine.core_count([0, 1, 5]) == 3


def test_cores_are_those_of_the_allowed_cpus(kernel: Kernel) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        kernel.files[f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = siblings
    assert machine.core_count([0, 1, 2, 3]) == 2
    assert machine.core_count([0, 2]) == 1


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_the_quota_of_a_control_group(files: dict[str, str], quota: float | None, kernel: Kernel) -> None:
    kernel.files.update(files)
    assert machine.cpu_quota() == quota


def test_who_decides_the_clock_rate(kernel: Kernel) -> None:
    kernel.files = {
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "intel_pstate",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
        "/sys/devices/system/cpu/intel_pstate/no_turbo": "1",
    }
    assert machine.frequency_control() == {"driver": "intel_pstate", "governor": "powersave", "turbo": False}
    kernel.files = {"/sys/devices/system/cpu/cpufreq/boost": "1"}
    assert machine.frequency_control() == {"turbo": True}


def test_pressure_is_a_share(kernel: Kernel) -> None:
    kernel.files["/proc/pressure/cpu"] = "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00"
    assert machine.stalled_share() == 0.125


def with_tool(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = directory / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_gpus_as_the_drivers_tool_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tool(tmp_path, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 81559, 550.54.15, 9.0'; echo 'Odd, [N/A], 1, 2'")
    assert machine.gpus() == [
        {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 81559 * 2**20, "driver": "550.54.15", "capability": "9.0"}
    ]


def test_gpus_without_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tool(tmp_path, monkeypatch, "exit 9")
    monkeypatch.setattr(machine, "_driver_models", lambda: ["NVIDIA A100"])
    assert machine.gpus() == [{"name": "NVIDIA A100"}]
    monkeypatch.setattr(machine, "_driver_models", list)
    assert machine.gpus() == []
