"""Peaks: which kernel and shape count, what is emulated, what is kept; and a real measurement."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Silent
from flashdistill.hardware import peak_kernels, peaks
from flashdistill.hardware.hosts import LocalHost
from flashdistill.hardware.machine import allowed_cpus
from flashdistill.hardware.peak_kernels import CPU_SHAPES, BestProduct, NoKernelError, Shape, best_product
from flashdistill.hardware.peaks import PeakRequest, Peaks, cached_peaks, measure_on, measure_peaks

FACTS: dict[str, Any] = {"machine_id": "m", "torch": "2.8", "onnxruntime": "1.22"}


class Machine:
    """A machine whose kernels have known rates: work is a number of seconds, the stopwatch reads it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **rates: Callable[[Shape], float]):
        self.shapes: list[tuple[str, Shape]] = []
        kernels = {name: self._kernel(name, rate) for name, rate in rates.items()}
        monkeypatch.setattr(peak_kernels, "_kernels", lambda precision, device, threads: kernels)
        monkeypatch.setattr(peak_kernels, "wall_seconds", lambda work: work())

    def _kernel(self, name: str, rate: Callable[[Shape], float]) -> Callable[[Shape], Callable[[], float]]:
        def make(shape: Shape) -> Callable[[], float]:
            self.shapes.append((name, shape))
            seconds = 2 * math.prod(shape) / rate(shape)
            return lambda: seconds

        return make


def refuse(_: Shape) -> float:
    raise RuntimeError("not for this processor\nand a long explanation")


def test_the_best_of_all_kernels_and_shapes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, one=lambda shape: 1e12, other=lambda shape: 3e12 if shape == (512, 512, 512) else 2e12)
    best = best_product("float32", "cpu", 1, 0.01)
    assert (best.shape, best.kernel) == ((512, 512, 512), "other")
    assert best.flops_per_s == pytest.approx(3e12)


def test_a_slow_precision_takes_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1e9 operations per second the largest shape would take minutes; only what fits its part is run."""
    machine = Machine(monkeypatch, emulated=lambda shape: 1e9)
    assert best_product("bfloat16", "cpu", 1, 0.16).flops_per_s == pytest.approx(1e9)
    part = 0.16 / len(CPU_SHAPES)
    assert [shape for _, shape in machine.shapes] == [
        shape for index, shape in enumerate(CPU_SHAPES) if index == 0 or 2 * math.prod(shape) / 1e9 <= part
    ]


def test_a_kernel_that_is_refused_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, broken=refuse, good=lambda shape: 5e12)
    assert best_product("int8", "cpu", 1, 0.01).kernel == "good"


def test_no_kernel_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, broken=refuse)
    with pytest.raises(NoKernelError, match=r"^not for this processor$"):
        best_product("int8", "cpu", 1, 0.01)


@pytest.mark.parametrize("precision", peaks.PRECISIONS)
def test_kernels_multiply(precision: str) -> None:
    """Each computes a whole product of the right size."""
    kernels = peak_kernels._kernels(precision, "cpu", 1)
    assert kernels
    for make in kernels.values():
        work: Any = make((8, 16, 24))
        result = work()
        result = np.asarray(result[0]) if isinstance(result, list) else result.float().numpy()
        assert result.shape == (8, 24)
        assert np.abs(result).max() > 0


def test_the_triad_is_bounded_by_physics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_kernels, "_triad_bytes", lambda device: 2**20)
    assert 1e7 < peak_kernels.best_triad("cpu", 0.01) < 1e13


def test_the_triad_leaves_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_kernels, "_last_level_cache_bytes", lambda: 10**9)
    memory = SimpleNamespace(available=2**40)
    monkeypatch.setattr(peak_kernels.psutil, "virtual_memory", lambda: memory)
    assert peak_kernels._triad_bytes("cpu") == 2 * 10**9
    memory.available = 2**30
    assert peak_kernels._triad_bytes("cpu") == 2**26


def scripted(monkeypatch: pytest.MonkeyPatch, rates: dict[str, float | None], instructions: list[str]) -> None:
    def product(precision: str, device: str, threads: int, seconds: float) -> BestProduct:
        rate = rates[precision]
        if rate is None:
            raise NoKernelError("no such kernel")
        return BestProduct(rate, (1, 2, 3), "kernel")

    monkeypatch.setattr(peaks, "best_product", product)
    monkeypatch.setattr(peaks, "best_triad", lambda device, seconds: 2e10)
    monkeypatch.setattr(peaks, "instruction_sets", lambda: instructions)
    monkeypatch.setattr(peaks, "_open_device", lambda request: "Some CPU")


def test_what_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {"float32": 1e11, "bfloat16": 1e9, "float16": 6e10, "int8": None}, [])
    found = measure_peaks(PeakRequest())
    assert {name: peak.emulated for name, peak in found.matrix.items()} == {
        "float32": False,
        "bfloat16": True,
        "float16": False,
    }
    assert found.unavailable == {"int8": "no such kernel"}
    assert found.matrix["float32"].shape == "1x2x3"
    assert found.bytes_per_s == 2e10


def test_what_has_instructions_is_not_emulated_however_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {"float32": 1e11, "bfloat16": 1e9}, ["avx512_bf16"])
    found = measure_peaks(PeakRequest(precisions=("bfloat16",)))
    assert list(found.matrix) == ["bfloat16"]
    assert not found.matrix["bfloat16"].emulated


def test_a_device_without_float32_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {"float32": None}, [])
    with pytest.raises(TargetError, match="no matrix product can be computed on cpu: no such kernel"):
        measure_peaks(PeakRequest(precisions=("float32",)))


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(TargetError, match="unknown precision float8, int4 .allowed: float32, bfloat16"):
        measure_peaks(PeakRequest(precisions=("int4", "float32", "float8")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_says_what_to_do() -> None:
    with pytest.raises(TargetError, match=r"sees no device cuda:1.*target\.peak_flops_per_s"):
        measure_peaks(PeakRequest(device="cuda:1"))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Peaks:
    scripted(monkeypatch, {"float32": 1e11, "int8": 4e11}, [])
    return dataclasses.replace(measure_peaks(PeakRequest(precisions=("float32", "int8"))), busy=False)


def test_peaks_are_measured_once(found: Peaks, tmp_path: Path) -> None:
    calls = []

    def measure() -> Peaks:
        calls.append(1)
        return found

    assert cached_peaks(tmp_path / "peaks", "key", measure) == found
    assert cached_peaks(tmp_path / "peaks", "key", measure) == found
    assert len(calls) == 1
    cached_peaks(tmp_path / "peaks", "other", measure)
    assert len(calls) == 2
    (tmp_path / "peaks" / "key.json").write_text('{"matrix": {}}', encoding="utf-8")
    assert cached_peaks(tmp_path / "peaks", "key", measure) == found
    assert len(calls) == 3


def test_peaks_of_a_busy_machine_are_not_kept(found: Peaks, tmp_path: Path) -> None:
    busy = dataclasses.replace(found, busy=True)
    assert cached_peaks(tmp_path, "key", lambda: busy) == busy
    assert cached_peaks(tmp_path, "key", lambda: found) == found
    assert cached_peaks(tmp_path, "study", lambda: busy, keep_busy=True) == busy
    assert cached_peaks(tmp_path, "study", lambda: found) == busy


def test_keys_name_all_that_peaks_depend_on() -> None:
    requests = [PeakRequest(), PeakRequest(threads=2), PeakRequest(cpus=(1,)), PeakRequest(device="cuda")]
    machines = [FACTS, {**FACTS, "torch": "2.9"}, {**FACTS, "gpu_model": "A"}, {**FACTS, "machine_id": "n"}]
    keys = [request.key(FACTS) for request in requests] + [PeakRequest().key(machine) for machine in machines[1:]]
    assert len(set(keys)) == len(keys)
    assert PeakRequest().key({**FACTS, "free": 1}) == PeakRequest().key(FACTS)


def test_a_real_measurement_in_a_process_of_its_own(tmp_path: Path) -> None:
    cpu = allowed_cpus()[-1]
    request = PeakRequest(1, (cpu,), precisions=("float32", "int8"), seconds=0.02)
    with LocalHost(tmp_path / "store", Silent()) as host:
        measured = measure_on(host, request, tmp_path / "log.txt")
    assert measured.cpus == (cpu,)
    assert 1e8 < measured.matrix["float32"].flops_per_s < 1e13
    assert measured.matrix["int8"].flops_per_s > 1e8
    assert 1e8 < measured.bytes_per_s < 1e13
    assert Peaks.from_json(json.loads(json.dumps(measured.to_json()))) == measured
    assert allowed_cpus() != [cpu] or len(allowed_cpus()) == 1, "this process is not pinned"


def test_the_error_of_that_process_is_ours(tmp_path: Path) -> None:
    request = PeakRequest(precisions=("float8",))
    with (
        LocalHost(tmp_path / "store", Silent()) as host,
        pytest.raises(TargetError, match=r"^unknown precision float8"),
    ):
        measure_on(host, request, tmp_path / "log.txt")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peaks_of_a_gpu(tmp_path: Path) -> None:
    with LocalHost(tmp_path / "store", Silent()) as host:
        measured = measure_on(host, PeakRequest(device="cuda", seconds=0.3), tmp_path / "log.txt")
    rates = {name: peak.flops_per_s for name, peak in measured.matrix.items()}
    assert rates["float16"] > rates["float32"] > 1e12
    assert measured.bytes_per_s > 1e11
