"""Calls of a model on a CUDA device: made so that they can be repeated, and timed.

Shapes: B sequences, S tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_WARM_UP_CALLS = 3
"""Libraries choose their algorithms and reserve their workspaces in the first calls."""

Compute = Callable[[Mapping[str, "torch.Tensor"]], Sequence["torch.Tensor"]]


class ResidentCall:
    """One call whose inputs and outputs stay at the same place on a device.

    CUDA graphs and engines demand that, and blocks of calls are timed without copies from and to
    the host.

    Args:
        compute: enqueues the model on the current stream; from inputs by name to outputs.
        inputs: int64 [B, S] by name, on the device. They are written to from now on.
        graph: whether to record the call as one CUDA graph and replay it. Launching kernel by
            kernel takes the host longer than the device needs for a small batch.
    """

    def __init__(self, compute: Compute, inputs: Mapping[str, torch.Tensor], *, graph: bool):
        import torch

        self._torch = torch
        self._compute = compute
        self._inputs = inputs
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Sequence[torch.Tensor] = ()
        if graph:
            self._record()

    def enqueue(self) -> None:
        """Do the work again on the current stream, without waiting for it."""
        if self._graph is not None:
            self._graph.replay()
            return
        with self._torch.inference_mode():
            self._outputs = self._compute(self._inputs)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Copy ``inputs`` in, compute, copy the outputs out: float32, whatever the model computes in."""
        with self._torch.inference_mode():
            for name, buffer in self._inputs.items():
                buffer.copy_(self._torch.from_numpy(inputs[name]))
            self.enqueue()
            # A graph writes to the same outputs again: the caller gets copies, also on the CPU.
            return [output.to("cpu", self._torch.float32, copy=True).numpy() for output in self._outputs]

    def _record(self) -> None:
        cuda = self._torch.cuda
        with self._torch.inference_mode():
            side = cuda.Stream()
            side.wait_stream(cuda.current_stream())
            with cuda.stream(side):
                for _ in range(_WARM_UP_CALLS):
                    self._compute(self._inputs)
            cuda.current_stream().wait_stream(side)
            graph = cuda.CUDAGraph()
            with cuda.graph(graph):
                self._outputs = self._compute(self._inputs)
        self._graph = graph


def time_device_calls(call: Callable[[], None], count: int) -> tuple[list[int], list[int]]:
    """Enqueue ``count`` calls one behind the other and wait once, at the end.

    ``call`` puts its work on torch's current stream of the current device and does not wait. A
    pair of events surrounds each call; what lies between them includes the gaps in which the
    device waits for the host to launch the next kernel. They are part of the latency of a model
    that is launched kernel by kernel, and what a CUDA graph or a compiled engine takes away.

    Returns:
        Nanoseconds of each call on the device (events resolve about 500 ns), and nanoseconds of
        this process's CPU time that it took to enqueue one, the same for every call. Waiting for
        the device is left out: CUDA waits actively, so it would only repeat the first figure.
    """
    import torch

    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    torch.cuda.synchronize()
    cpu_start = time.process_time_ns()
    for start, end in pairs:
        start.record()
        call()
        end.record()
    enqueued = time.process_time_ns() - cpu_start
    torch.cuda.synchronize()
    return [round(start.elapsed_time(end) * 1e6) for start, end in pairs], [enqueued // max(count, 1)] * count
