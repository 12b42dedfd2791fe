"""What the user reads: tables of measurements and the doctor's findings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement
from flashdistill.terminal_text import doctor_text, measurement_table, training_text

CONDITIONS: dict[str, Any] = {
    "runtime": "onnxruntime",
    "runtime_version": "1.31",
    "precision": "int8",
    "threads": 2,
    "cpu_model": "Some CPU",
    "batch_size": 1,
    "sequence_length": 128,
}


def test_measurements_are_aligned_with_their_intervals() -> None:
    ratio: dict[str, Any] = {"ratio": 0.5, "ratio_low": 0.49, "ratio_high": 0.51, "clock": "cpu"}
    results = [
        (
            Architecture(512, 128, 4, 512, 4),
            {
                "latency_ms": Measurement("latency_ms", 12.5, "ms", 0.1, environment=CONDITIONS, details=ratio),
                "artifact_bytes": Measurement("artifact_bytes", 104857600, "bytes"),
            },
        ),
        (Architecture(128, 64, 1, 384, 2), {"latency_ms": Measurement("latency_ms", 3, "ms", details={"noisy": True})}),
    ]
    assert measurement_table(results).splitlines() == [
        "architecture     latency ms          ratio [95 %]  file MB",
        "512_128_4_512_4  12.5 ± 0.2  0.500 [0.490, 0.510]    104.9",
        "128_64_1_384_2      3 noisy                     -        -",
        "",
        "onnxruntime 1.31 int8, 2 threads on Some CPU, batch 1 × 128 tokens, CPU time",
    ]


def test_several_targets_are_rows() -> None:
    facts: dict[str, Any] = dict(CONDITIONS, runtime="torch", gpu_model="Some GPU", host="box", precision="float16")
    measured = {
        "latency_ms": Measurement("latency_ms", 12.5, "ms", environment=CONDITIONS),
        "latency_ms@gpu": Measurement("latency_ms@gpu", 0.5, "ms", environment=facts, details={"clock": "wall"}),
        "flops_utilization@gpu": Measurement("flops_utilization@gpu", 0.123, "fraction"),
    }
    assert measurement_table([(Path("models/mine"), measured)]).splitlines() == [
        "architecture  target  latency ms  ratio [95 %]  of peak FLOP/s",
        "models/mine        -        12.5             -               -",
        "models/mine      gpu         0.5             -            12 %",
        "",
        "onnxruntime 1.31 int8, 2 threads on Some CPU, batch 1 × 128 tokens",
        "gpu: torch 1.31 float16, Some GPU (box), batch 1 × 128 tokens, wall time",
    ]


def test_training_advice() -> None:
    assert training_text("cpu", {"bfloat16": None, "compile": 1.05}).splitlines() == [
        "training on cpu",
        "  compile   1.05 x as fast as without: not worth setting",
        "  bfloat16  only emulated here: training uses float32",
    ]
    assert training_text("cuda", {"bfloat16": 2.0, "compile": None}).splitlines() == [
        "training on cuda",
        "  bfloat16  2.00 x as fast as without: set training.precision: bfloat16",
    ]


def matrix(**rates: float) -> dict[str, Any]:
    return {name: {"flops_per_s": rate, "emulated": rate < 1e11} for name, rate in rates.items()}


def report() -> dict[str, Any]:
    return {
        "machine": {
            "cpu_model": "Some CPU",
            "instructions": "avx2 fma",
            "huge_pages": "madvise",
            "system": "Linux",
            "kernel": "6.1",
            "python": "3.11.9",
            "machine_id": "abc",
        },
        "processor": {
            "physical_cores": 4,
            "logical_cpus": 8,
            "allowed_cpus": [0, 1, 2, 6],
            "quota_cpus": 1.5,
            "frequency": {"governor": "performance", "driver": "acpi-cpufreq", "turbo": True},
            "virtual": True,
        },
        "memory": {
            "total_bytes": 2**34,
            "available_bytes": 2**33,
            "swap_total_bytes": 2**31,
            "swap_used_bytes": 2**29,
        },
        "contention": {"load": 0.5, "stalled": 0.25, "stolen": 0.02},
        "gpus": [{"name": "Some GPU", "memory_bytes": 80 * 2**30, "driver": "550", "capability": "9.0"}],
        "runtimes": [
            {
                "runtime": "onnxruntime",
                "version": "1.22-90ab-release",
                "available": True,
                "precisions": {"cpu": ["float32", "int8"]},
                "lacking": {"cuda": "install onnxruntime-gpu"},
                "offers": ["CPUExecutionProvider"],
            },
            {
                "runtime": "openvino",
                "version": None,
                "available": False,
                "precisions": {},
                "lacking": {
                    "cpu": "target.runtime is openvino, which is not installed; "
                    "install it with: pip install 'flashdistill[openvino]'"
                },
                "offers": [],
            },
        ],
        "peaks": [
            {
                "device": "cpu",
                "threads": 1,
                "matrix": matrix(float32=1.2345e11, bfloat16=1e9),
                "bytes_per_s": 9.87e9,
                "busy": False,
            },
            {"device": "cuda:0", "threads": 1, "matrix": matrix(float32=4e14), "bytes_per_s": 3e12, "busy": True},
        ],
        "warnings": ["it is slow", "it is old " * 12],
    }


def test_the_doctors_findings() -> None:
    assert doctor_text(report()).splitlines() == [
        "machine",
        "  processor     Some CPU, in a virtual machine",
        "  cores         4 physical, 8 logical, CPUs 0-2,6 may be used, 1.5 CPUs' worth of time",
        "  instructions  avx2 fma",
        "  clock rate    governor performance, driver acpi-cpufreq, turbo on",
        "  memory        16.0 GiB, 8.0 GiB free, 0.5 GiB of swap used",
        "  huge pages    madvise",
        "  system        Linux 6.1, Python 3.11.9",
        "  id            abc",
        "",
        "accelerators",
        "  cuda:0  Some GPU, 80.0 GiB, compute capability 9.0, driver 550",
        "",
        "load now",
        "  runnable tasks        0.50",
        "  tasks wait for a CPU  25% of the time",
        "  CPU time stolen       2%",
        "",
        "serving runtimes",
        "  onnxruntime  1.22  cpu: float32, int8 (offers CPUExecutionProvider)",
        "               cuda: install onnxruntime-gpu",
        "  openvino     not available",
        "               cpu: target.runtime is openvino, which is not installed; install it with: pip install",
        "               'flashdistill[openvino]'",
        "",
        "best matrix product in GFLOP/s, best triad in GB/s",
        "              float32   bfloat16    memory",
        "  1 thread      123.5        1.0*      9.9",
        "  cuda:0    400,000.0          -   3,000.0",
        "  * emulated: slower than float32",
        "  others used the machine meanwhile: it may do better",
        "",
        "warnings",
        "  - it is slow",
        "  - it is old it is old it is old it is old it is old it is old it is old it is old it is old it is",
        "    old it is old it is old",
    ]


def test_a_machine_that_tells_little() -> None:
    bare = report()
    bare |= {"gpus": [], "peaks": [], "warnings": []}
    bare["processor"] |= {"frequency": {}, "quota_cpus": None, "physical_cores": None, "virtual": False}
    bare["processor"]["allowed_cpus"] = list(range(8))
    bare["memory"]["swap_total_bytes"] = 0
    bare["contention"]["stalled"] = None
    lines = doctor_text(bare).splitlines()
    assert "  cores         8 logical, all may be used" in lines
    assert "  memory        16.0 GiB, 8.0 GiB free, no swap" in lines
    assert not any("clock rate" in line or "tasks wait" in line for line in lines)
    assert lines[lines.index("accelerators") + 1] == "  none"
    assert "  not measured" in lines
    assert lines[-2:] == ["warnings", "  none"]


def test_training_comes_before_the_warnings() -> None:
    training = {"device": "cpu", "bfloat16": 2.0, "compile": None}
    text = doctor_text(report() | {"training": training})
    assert text.index("best matrix product") < text.index("training on cpu") < text.index("warnings")
    assert training_text("cpu", training) in text


@pytest.mark.parametrize("value", [math.pi, 10_000.0])
def test_numbers_keep_four_digits(value: float) -> None:
    table = measurement_table(
        [(Architecture(8, 4, 1, 4, 1), {"latency_p50_ms": Measurement("latency_p50_ms", value, "ms")})]
    )
    assert table.splitlines()[1].split()[1] == {math.pi: "3.142", 10_000.0: "10,000"}[value]
