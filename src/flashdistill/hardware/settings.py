"""Configuration section ``target``: the serving hardware and software."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from flashdistill.core.registry import did_you_mean
from flashdistill.core.settings import Section

TARGETS = {
    "onnxruntime": "flashdistill.hardware.targets.onnxruntime:OnnxRuntimeTarget",
    "fake": "flashdistill.testing.fake_target:FakeTarget",
}
"""Serving runtimes: a new one is one file and one row here."""


class MeasurementSettings(Section):
    """When a latency is known well enough."""

    tolerance: float = Field(
        default=0.02, gt=0, lt=1, description="half-width of the 95 % interval of the latency ratio"
    )
    final_tolerance: float = Field(default=0.01, gt=0, lt=1, description="the same for the delivered models")
    seconds: float = Field(
        default=10.0, gt=0, description="budget of one measurement; beyond it the result is marked noisy"
    )
    block_ms: float = Field(default=10.0, gt=0, description="length of one uninterrupted block of runs")
    patience_seconds: float = Field(default=5.0, ge=0, description="longest wait for a busy machine to become quiet")


class TargetSettings(Section):
    """Where and how the students will be served."""

    runtime: str = "onnxruntime"
    device: Literal["cpu"] = "cpu"
    threads: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1, ge=1)
    sequence_length: int = Field(default=128, ge=1)
    measurement: MeasurementSettings = MeasurementSettings()

    @field_validator("runtime")
    @classmethod
    def _known(cls, runtime: str) -> str:
        if runtime not in TARGETS:
            raise ValueError(f"unknown runtime{did_you_mean(runtime, TARGETS)} (allowed: {', '.join(TARGETS)})")
        return runtime
