"""What can be timed to learn a machine's peaks: matrix products by precision, and the triad.

Imports torch and ONNX Runtime inside its functions only: it runs in a process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

Shape = tuple[int, int, int]
"""Rows, inner size and columns of a matrix product."""

Work = Callable[[], object]
MakeProduct = Callable[[Shape], Work]
Stopwatch = Callable[[Work], float]
"""Runs the work once and returns its seconds."""

CPU_SHAPES: tuple[Shape, ...] = (
    (128, 128, 512),
    (128, 512, 128),
    (128, 512, 512),
    (512, 512, 512),
    (256, 1024, 1024),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
)
"""From the skinny products of students, which a core's caches hold, to those that fill many cores."""

CUDA_SHAPES: tuple[Shape, ...] = (
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 1024, 4096),
    (4096, 4096, 4096),
    (8192, 8192, 8192),
)

_LEAST_REPEATS = 3
_TRIAD_BYTES = {"cpu": 2**26, "cuda": 2**28}
_ONNX_OPSET, _ONNX_IR = 17, 8


@dataclass(frozen=True)
class BestProduct:
    """The fastest of several kernels and shapes."""

    flops_per_s: float
    shape: Shape
    kernel: str


class NoKernelError(Exception):
    """No kernel here multiplies in this precision; says why."""


def best_product(precision: str, device: str, threads: int, seconds: float) -> BestProduct:
    """The best rate of a matrix product in ``precision``; 2·rows·inner·columns operations each.

    Every pair of a kernel and a shape has an equal part of ``seconds``, and large shapes that
    would take longer, judging by the smaller ones, are left out: a precision that the processor
    only emulates costs no more time than another.

    Raises:
        NoKernelError: there is none for this precision.
    """
    best: BestProduct | None = None
    failure = "unknown to the installed runtimes"
    kernels = _kernels(precision, device, threads)
    shapes, stopwatch = (CUDA_SHAPES, cuda_seconds) if device.startswith("cuda") else (CPU_SHAPES, wall_seconds)
    part = seconds / max(1, len(kernels) * len(shapes))
    for kernel, make in kernels.items():
        try:
            for shape, rate in _rates(make, shapes, stopwatch, part):
                if best is None or rate > best.flops_per_s:
                    best = BestProduct(rate, shape, kernel)
        except Exception as error:  # each runtime has its own classes for "cannot"
            failure = str(error).strip().partition("\n")[0] or type(error).__name__
    if best is None:
        raise NoKernelError(failure)
    return best


def best_triad(device: str, seconds: float) -> float:
    """Best rate of ``a = b + s·c`` in bytes per second; three arrays of float32 count.

    The arrays are larger than the caches, so that the memory itself is seen.
    """
    import torch

    elements = _triad_bytes(device) // 4
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    stopwatch = cuda_seconds if device.startswith("cuda") else wall_seconds
    return 3 * 4 * elements / best_seconds(lambda: torch.add(b, c, alpha=3.0, out=a), seconds, stopwatch)


def best_seconds(work: Work, seconds: float, stopwatch: Stopwatch) -> float:
    """The shortest duration of ``work`` among repetitions for ``seconds``, after a first one.

    A peak is what the machine can do, so what disturbed the other repetitions has no say.
    """
    stopwatch(work)
    best, end, repeats = math.inf, time.perf_counter() + seconds, 0
    while repeats < _LEAST_REPEATS or time.perf_counter() < end:
        best = min(best, stopwatch(work))
        repeats += 1
    return best


def wall_seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cuda_seconds(work: Work) -> float:
    """On the current device's own clock; waits for the work to end."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _rates(
    make: MakeProduct, shapes: tuple[Shape, ...], stopwatch: Stopwatch, part: float
) -> Iterator[tuple[Shape, float]]:
    fastest = math.inf
    for shape in shapes:
        operations = 2 * math.prod(shape)
        if fastest < math.inf and operations / fastest > part:
            continue
        rate = operations / best_seconds(make(shape), part, stopwatch)
        fastest = rate if fastest == math.inf else max(fastest, rate)
        yield shape, rate


def _kernels(precision: str, device: str, threads: int) -> Mapping[str, MakeProduct]:
    """Ways to multiply in ``precision``, by name; which of them the machine likes is not known beforehand."""
    if precision == "int8":
        found = {"torch._int_mm": lambda shape: _torch_int8(shape, device)}
    else:
        found = {"torch.mm": lambda shape: _torch_product(shape, device, precision, "highest")}
    if device.startswith("cuda") and precision == "float32":
        found["torch.mm TF32"] = lambda shape: _torch_product(shape, device, precision, "high")
    if device == "cpu" and precision in _ONNX_PRODUCTS:
        found[f"onnxruntime {_ONNX_PRODUCTS[precision]}"] = lambda shape: _onnx_product(shape, precision, threads)
    return found


def _torch_product(shape: Shape, device: str, precision: str, float32_precision: str) -> Work:
    """``x @ weight.T`` into a tensor that is there; ``float32_precision`` is torch's name for using TF32 or not."""
    import torch

    torch.set_float32_matmul_precision(float32_precision)
    rows, inner, columns = shape
    dtype = getattr(torch, precision)
    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype).t()
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return lambda: torch.mm(x, weight, out=out)


def _torch_int8(shape: Shape, device: str) -> Work:
    import torch

    rows, inner, columns = shape
    x = torch.randint(-127, 128, (rows, inner), device=device, dtype=torch.int8)
    weight = torch.randint(-127, 128, (columns, inner), device=device, dtype=torch.int8).t()
    return lambda: torch._int_mm(x, weight)  # type: ignore[reportPrivateImportUsage]


_ONNX_PRODUCTS = {"float32": "MatMul", "int8": "MatMulInteger"}


def _onnx_product(shape: Shape, precision: str, threads: int) -> Work:
    """A graph of one product with constant weights, as runtimes pre-pack them."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rows, inner, columns = shape
    random = np.random.default_rng(0)
    if precision == "int8":
        x: Any = random.integers(0, 256, (rows, inner), dtype=np.uint8)
        weight: Any = random.integers(-127, 128, (inner, columns), dtype=np.int8)
        given, result = TensorProto.UINT8, TensorProto.INT32
    else:
        x = random.random((rows, inner), dtype=np.float32)
        weight = random.random((inner, columns), dtype=np.float32)
        given = result = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(_ONNX_PRODUCTS[precision], ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", given, [rows, inner])],
        [helper.make_tensor_value_info("y", result, [rows, columns])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _ONNX_OPSET)], ir_version=_ONNX_IR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def _triad_bytes(device: str) -> int:
    """Of one array: twice the last-level cache, but not more than a sixteenth of what memory is free."""
    if device.startswith("cuda"):
        return _TRIAD_BYTES["cuda"]
    wanted = max(_TRIAD_BYTES["cpu"], 2 * _last_level_cache_bytes())
    return min(wanted, psutil.virtual_memory().available // 16)


def _last_level_cache_bytes() -> int:
    """The largest cache of CPU 0; zero where the system does not tell."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * 1024)
    return max(sizes)
