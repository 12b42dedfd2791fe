"""Devices, and what they sustain in trainings such as these.

A device's peaks are its maker's or, for this machine, measured. What is sustained is an
assumption, stated here: of the peak of matrix products `UTILISATION`, of the memory's bandwidth
`BANDWIDTH_SHARE`, whichever ends first. Students are narrow, so each of their operations moves much
for what it computes: on accelerators memory is their limit, not arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashdistill.core.errors import InputError
from flashdistill.core.registry import did_you_mean

UTILISATION = 0.4
"""Of the peak FLOP/s, where arithmetic is the limit; large models are usually trained at 0.3 to 0.5."""

BANDWIDTH_SHARE = 0.8
"""Of the peak bandwidth, where memory is the limit."""

THIS_MACHINE = "this"


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        peak_flops_per_s: of dense matrix products, in ``precision``.
        bytes_per_s: of its memory.
        memory_bytes: None where it is not known.
        source: who says so.
    """

    name: str
    precision: str
    peak_flops_per_s: float
    bytes_per_s: float
    memory_bytes: float | None
    source: str

    def sustained(self, flops_per_byte: float) -> float:
        """FLOP/s of work that computes so much for each byte it moves."""
        return min(UTILISATION * self.peak_flops_per_s, BANDWIDTH_SHARE * self.bytes_per_s * flops_per_byte)


@dataclass(frozen=True)
class Rates:
    """FLOP/s that a device sustains with the students and with the teacher of a run."""

    device: str
    precision: str
    memory_bytes: float | None
    student: float
    teacher: float


_NVIDIA = "NVIDIA's data sheet, dense, SXM where there is a choice"
_GOOGLE = "Google Cloud's documentation"

DEVICES = {
    device.name: device
    for device in (
        Device("l4", "bfloat16", 121e12, 300e9, 24e9, _NVIDIA),
        Device("a100", "bfloat16", 312e12, 2039e9, 80e9, _NVIDIA),
        Device("h100", "bfloat16", 989e12, 3350e9, 80e9, _NVIDIA),
        Device("h200", "bfloat16", 989e12, 4800e9, 141e9, _NVIDIA),
        # For comparison with the paper's accelerators; training here knows CPUs and CUDA.
        Device("tpu-v4", "bfloat16", 275e12, 1228e9, 32e9, _GOOGLE),
    )
}


def named_device(name: str) -> Device:
    """A row of `DEVICES`.

    Raises:
        InputError: there is none of this name.
    """
    if name not in DEVICES:
        allowed = ", ".join([*DEVICES, THIS_MACHINE])
        raise InputError(
            f"--device: unknown device {name!r} (allowed: {allowed}){did_you_mean(name, [*DEVICES, THIS_MACHINE])}; "
            "for any other give what it sustains with --flops-per-s"
        )
    return DEVICES[name]
