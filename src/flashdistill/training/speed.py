"""What reduced precision and compilation bring on this machine: measured on a student's own blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from flashdistill.training.compute import Compute, has_bfloat16
from flashdistill.training.loop import seconds_per_step

_TOKENS, _WIDTH, _INNER, _LAYERS = 1024, 512, 2048, 4
_REPEATS = 5


def bfloat16_speedup(device: torch.device) -> float | None:
    """How many times faster a training step is in bfloat16 than in float32.

    The step is forward and backward of a stack of dense layers, of the sizes that an encoder's
    have. None where bfloat16 is only emulated, which would be many times slower.
    """
    if not has_bfloat16(device):
        return None
    seconds = [_seconds(Compute(device, precision), lambda layers: layers) for precision in _PRECISIONS]
    return seconds[0] / seconds[1]


def compile_speedup(device: torch.device) -> float:
    """The same for `torch.compile`, its compilation not counted; takes up to minutes.

    Raises:
        RuntimeError: there is no compiler that PyTorch could use.
    """
    compute = Compute(device)
    return _seconds(compute, lambda layers: layers) / _seconds(compute, torch.compile)


_PRECISIONS = (torch.float32, torch.bfloat16)


def _seconds(compute: Compute, prepared: Callable[[nn.Module], Callable[[torch.Tensor], torch.Tensor]]) -> float:
    """Median seconds of a step of layers that are prepared in some way."""
    dense = [(nn.Linear(_WIDTH, _INNER), nn.ReLU(), nn.Linear(_INNER, _WIDTH)) for _ in range(_LAYERS)]
    layers = nn.Sequential(*(layer for group in dense for layer in group)).to(compute.device)
    run = prepared(layers)
    features = torch.randn(_TOKENS, _WIDTH, device=compute.device)

    def step(_: int) -> None:
        with compute.arithmetic():
            loss = run(features).float().square().mean()
        loss.backward()
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)

    return seconds_per_step(step, repeats=_REPEATS, discard=2)
