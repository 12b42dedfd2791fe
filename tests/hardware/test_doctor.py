"""The doctor: what it collects, and each of its warnings."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.hardware import doctor
from flashdistill.hardware.doctor import doctor_report, peak_requests, warnings_for
from flashdistill.hardware.machine import Contention
from flashdistill.hardware.peaks import MatrixPeak, PeakRequest, Peaks
from flashdistill.hardware.runtimes import RuntimeFacts

CALM = Contention(0.1, 0.0, 0.0)
RUNTIMES = [RuntimeFacts("onnxruntime", "1.22", {"cpu": ["float32"]})]
CUDA = RuntimeFacts("torch", "2.8", {"cpu": ["float32"], "cuda": ["float32"]})


def peaks(emulated: tuple[str, ...] = (), device: str = "cpu", threads: int = 1) -> Peaks:
    matrix = {
        name: MatrixPeak(1e9 if name in emulated else 1e11, "1x2x3", "torch.mm", name in emulated)
        for name in ("float32", "bfloat16", "float16", "int8")
    }
    return Peaks(device, "Some CPU", threads, (), matrix, {}, 2e10, False)


def healthy() -> dict[str, Any]:
    return {
        "machine": {"huge_pages": "madvise"},
        "processor": {
            "allowed_cpus": [0, 1],
            "allowed_cores": 2,
            "quota_cpus": None,
            "frequency": {},
            "clock_source": "tsc",
        },
        "memory": {"swap_used_bytes": 0, "available_bytes": 2**34},
        "gpus": [],
        "unmeasured": [],
    }


def warned(now: Contention = CALM, emulated: tuple[str, ...] = (), **changes: Any) -> list[str]:
    report = healthy()
    for name, value in changes.items():
        section = report["processor"] if name in report["processor"] else report["memory"]
        section[name] = value
    return warnings_for(report, now, RUNTIMES, [peaks(emulated)])


def test_a_healthy_machine() -> None:
    assert warned() == []
    assert warned(frequency={"governor": "powersave", "driver": "intel_pstate"}) == []
    assert warned(quota_cpus=2.0) == []
    assert warned(emulated=("float16",)) == [], "on a CPU that is the rule"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emulated": ("bfloat16",)}, "bfloat16 is only emulated on this CPU: do not serve in it"),
        ({"emulated": ("int8",)}, "int8 is only emulated on this CPU: quantised models will be smaller"),
        ({"allowed_cores": 1}, "only one core may be used"),
        ({"quota_cpus": 1.5}, "a control group allows 1.5 CPUs' worth of time on 2 CPUs"),
        ({"frequency": {"governor": "powersave", "driver": "acpi-cpufreq"}}, "the frequency governor is powersave"),
        ({"clock_source": "hpet"}, "reads the time from hpet"),
        ({"swap_used_bytes": 2**30}, "1.0 GiB are swapped out"),
        ({"available_bytes": 2**30}, "only 1.0 GiB of memory are free"),
        ({"now": Contention(9.0, 0.6, 0.1)}, "busy now (60% of the time tasks wait for a CPU, 10% is stolen"),
        ({"now": Contention(0.1, None, 0.0)}, "no pressure-stall information"),
    ],
)
def test_one_warning_each(changes: dict[str, Any], message: str) -> None:
    (text,) = warned(**changes)
    assert message in text


def test_huge_pages_off() -> None:
    (text,) = warnings_for({**healthy(), "machine": {"huge_pages": "never"}}, CALM, RUNTIMES, [peaks()])
    assert "huge pages are off" in text


def test_a_broken_default_runtime() -> None:
    broken = RuntimeFacts("onnxruntime", lacking={"cpu": "pip install onnxruntime"})
    assert warnings_for(healthy(), CALM, [broken], [peaks()]) == [
        "onnxruntime, the default runtime, cannot be used: pip install onnxruntime"
    ]


def test_a_gpu_that_nothing_can_use() -> None:
    report = {**healthy(), "gpus": [{"name": "Some GPU"}]}
    (text,) = warnings_for(report, CALM, RUNTIMES, [peaks()])
    assert "no runtime here can serve on this machine's GPU" in text
    assert warnings_for(report, CALM, [*RUNTIMES, CUDA], [peaks()]) == []


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, whole cores, and each kind of GPU once."""
    monkeypatch.setattr(doctor, "allowed_cpus", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(doctor, "core_count", lambda cpus: 2)
    monkeypatch.setattr(doctor, "choose_cpus", lambda threads: [3, 1][:threads])
    requests = peak_requests([{"name": "A"}, {"name": "A"}, {"name": "B"}])
    assert [(one.device, one.threads, one.cpus) for one in requests] == [
        ("cpu", 1, (3,)),
        ("cpu", 2, (3, 1)),
        ("cuda:0", 1, ()),
        ("cuda:2", 1, ()),
    ]
    monkeypatch.setattr(doctor, "core_count", lambda cpus: 1)
    assert len(peak_requests([])) == 1


def test_the_report_survives_what_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Host:
        def __init__(self, *_: Any): ...
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None: ...

        @contextlib.contextmanager
        def locked(self, device: str) -> Iterator[None]:
            asked.append(f"lock {device}")
            yield

    def measure(host: Any, request: PeakRequest, log: Any) -> Peaks:
        asked.append(f"measure {request.device}")
        if request.device != "cpu":
            raise TargetError("no CUDA in this PyTorch")
        return peaks(threads=request.threads)

    monkeypatch.setattr(doctor, "LocalHost", Host)
    monkeypatch.setattr(doctor, "measure_on", measure)
    monkeypatch.setattr(doctor, "contention", lambda: CALM)
    monkeypatch.setattr(doctor, "gpus", lambda: [{"name": "Some GPU"}])
    monkeypatch.setattr(doctor, "core_count", lambda cpus: 1)
    monkeypatch.setattr(doctor, "look_at_runtimes", lambda names, devices: [*RUNTIMES, CUDA])
    report = doctor_report(Silent())
    assert asked == ["lock cpu", "measure cpu", "lock cuda:0", "measure cuda:0"]
    assert report["peaks"][0]["matrix"]["float32"]["flops_per_s"] == 1e11
    assert report["unmeasured"] == ["no CUDA in this PyTorch"]
    assert "no CUDA in this PyTorch" in report["warnings"]
    assert report["runtimes"][0]["available"] is True
    assert json.loads(json.dumps(report))["contention"] == {"load": 0.1, "stalled": 0.0, "stolen": 0.0, "busy": False}
    assert report["memory"]["total_bytes"] > report["memory"]["available_bytes"] > 0
    assert report["processor"]["logical_cpus"] >= len(report["processor"]["allowed_cpus"]) >= 1
