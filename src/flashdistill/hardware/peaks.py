"""What a device can do at best: matrix products by precision, and the triad. Divides a roofline.

    python -P -m flashdistill.hardware.peaks \
        '{"threads": 1, "cpus": [1], "device": "cpu", "precisions": ["float32"]}'

prints one JSON line: `Peaks` as a mapping, or ``{"error": message}``. It measures in a process of
its own, because pinning and thread counts can be set only once in a process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flashdistill.core.errors import TargetError
from flashdistill.core.files import content_key, read_json, write_json
from flashdistill.hardware.hosts import Host
from flashdistill.hardware.lines import take_standard_output
from flashdistill.hardware.machine import ContentionMeter, Facts, cpu_model, instruction_sets
from flashdistill.hardware.peak_kernels import BestProduct, NoKernelError, best_product, best_triad

EMULATED_BELOW = 0.5
"""A precision that the processor has no instructions for is emulated if it is below this share of float32's rate."""

_INSTRUCTIONS = {
    "float32": (),
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "asimdhp"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
}
PRECISIONS = tuple(_INSTRUCTIONS)

_VERSION = 1
_TRIAD_SECONDS = 0.4
_TUPLES = ("cpus", "precisions")


@dataclass(frozen=True)
class PeakRequest:
    """What to measure: on which device and, of a CPU, with how many threads on which CPUs.

    Attributes:
        seconds: for each precision; float32 is measured in any case, as the others' yardstick.
    """

    threads: int = 1
    cpus: tuple[int, ...] = ()
    device: str = "cpu"
    precisions: tuple[str, ...] = PRECISIONS
    seconds: float = 0.8

    def arguments(self) -> dict[str, Any]:
        """For the command line of this module."""
        return dataclasses.asdict(self)

    def key(self, machine: Facts) -> str:
        """The name of the result on a machine with these facts, its accelerator and software included."""
        known = [machine.get(name) for name in ("gpu_model", "gpu_driver", "torch", "onnxruntime")]
        return f"peaks-{content_key(_VERSION, machine['machine_id'], known, self.arguments())}"


@dataclass(frozen=True)
class MatrixPeak:
    """The best matrix product in one precision.

    Attributes:
        flops_per_s: operations per second, a multiply-add counted as two; of integers for int8.
        shape: rows × inner size × columns with which it was reached.
        kernel: what multiplied.
        emulated: the device has no instructions for it and is much slower than in float32.
    """

    flops_per_s: float
    shape: str
    kernel: str
    emulated: bool


@dataclass(frozen=True)
class Peaks:
    """The best that a device was seen to do.

    Attributes:
        device_name: of the processor or accelerator.
        threads, cpus: of a CPU; the CPUs are those it was pinned to.
        matrix: by precision.
        unavailable: precisions that nothing here multiplies in, and why.
        bytes_per_s: of the triad ``a = b + s·c`` in float32, out of the caches.
        busy: others used the machine meanwhile, so it may do better.
    """

    device: str
    device_name: str
    threads: int
    cpus: tuple[int, ...]
    matrix: Mapping[str, MatrixPeak]
    unavailable: Mapping[str, str]
    bytes_per_s: float
    busy: bool

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, AttributeError: it is something else.
        """
        matrix = {name: MatrixPeak(**value) for name, value in stored["matrix"].items()}
        return cls(**{**stored, "matrix": matrix, "cpus": tuple(stored["cpus"])})


def measure_peaks(request: PeakRequest) -> Peaks:
    """Measure in this process, which is pinned to the request's CPUs from then on.

    Raises:
        TargetError: PyTorch sees no such device; a precision is unknown.
    """
    unknown = set(request.precisions) - set(PRECISIONS)
    if unknown:
        raise TargetError(f"unknown precision {', '.join(sorted(unknown))} (allowed: {', '.join(PRECISIONS)})")
    if request.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request.cpus)  # before torch makes its threads, which inherit it
    meter = ContentionMeter()
    busy = meter.look().busy
    name = _open_device(request)
    found, unavailable = _products(request)
    yardstick = EMULATED_BELOW * found["float32"].flops_per_s
    matrix = {}
    for precision in request.precisions:
        if (best := found.get(precision)) is not None:
            emulated = best.flops_per_s < yardstick and not _has_instructions(request.device, precision)
            matrix[precision] = MatrixPeak(best.flops_per_s, "x".join(map(str, best.shape)), best.kernel, emulated)
    triad = best_triad(request.device, min(request.seconds, _TRIAD_SECONDS))
    busy = busy or meter.look().busy
    return Peaks(request.device, name, request.threads, request.cpus, matrix, unavailable, triad, busy)


def _products(request: PeakRequest) -> tuple[dict[str, BestProduct], dict[str, str]]:
    """The best products by precision, float32 among them, and why others are missing."""
    found: dict[str, BestProduct] = {}
    unavailable: dict[str, str] = {}
    for precision in dict.fromkeys(("float32", *request.precisions)):
        try:
            found[precision] = best_product(precision, request.device, request.threads, request.seconds)
        except NoKernelError as error:
            if precision == "float32":
                raise TargetError(f"no matrix product can be computed on {request.device}: {error}") from error
            unavailable[precision] = str(error)
    return found, unavailable


def measure_on(host: Host, request: PeakRequest, log: Path) -> Peaks:
    """`measure_peaks` in a process of its own on a host, whose device the caller has locked.

    Args:
        log: receives what the process writes to its standard error.

    Raises:
        TargetError: it failed; says why.
    """
    answer = host.ask_module("flashdistill.hardware.peaks", request.arguments(), log)
    if "error" in answer:
        raise TargetError(f"{host.place}{answer['error']}")
    return Peaks.from_json(answer)


def cached_peaks(root: Path, host_key: str, measure: Callable[[], Peaks], *, keep_busy: bool = False) -> Peaks:
    """The peaks in ``root/<host_key>.json``, or those that ``measure`` returns, which are kept there.

    Peaks of a busy machine are not kept: they would be too low for all runs to come.

    Args:
        host_key: `PeakRequest.key` with the facts of the host that is measured.
        keep_busy: keep them nevertheless: for one study, all of whose rates are to have the same divisor.
    """
    path = Path(root, f"{host_key}.json")
    try:
        return Peaks.from_json(read_json(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found = measure()  # nothing there, or damaged
    if keep_busy or not found.busy:
        write_json(path, found.to_json())
    return found


def _has_instructions(device: str, precision: str) -> bool:
    """Whether a CPU says so; then a low rate is that of a busy machine. False for accelerators, which do not say."""
    return device == "cpu" and not set(_INSTRUCTIONS[precision]).isdisjoint(instruction_sets())


def _open_device(request: PeakRequest) -> str:
    """Prepare torch for the device; returns the device's name."""
    import torch

    if request.device == "cpu":
        torch.set_num_threads(request.threads)
        return cpu_model()
    if not torch.cuda.is_available() or (torch.device(request.device).index or 0) >= torch.cuda.device_count():
        raise TargetError(
            f"the PyTorch here ({torch.__version__}) sees no device {request.device}: its peaks cannot be measured. "
            "Install a PyTorch with CUDA, or give target.peak_flops_per_s and target.peak_bytes_per_s"
        )
    torch.cuda.set_device(request.device)
    return torch.cuda.get_device_name(request.device)


def main(arguments: Sequence[str]) -> None:
    answers = take_standard_output()
    try:
        wanted = json.loads(arguments[0])
        request = PeakRequest(**{**wanted, **{name: tuple(wanted[name]) for name in _TUPLES if name in wanted}})
        answer = measure_peaks(request).to_json()
    except TargetError as error:
        answer = {"error": str(error)}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
