"""Configuration sections ``target`` and ``further_targets``: the serving hardware and software."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from flashdistill.core.registry import did_you_mean, load
from flashdistill.core.settings import Section

TARGETS = {
    "onnxruntime": "flashdistill.hardware.targets.onnxruntime:OnnxRuntimeTarget",
    "onnxruntime-tensorrt": "flashdistill.hardware.targets.onnxruntime:TensorRtProviderTarget",
    "openvino": "flashdistill.hardware.targets.openvino:OpenVinoTarget",
    "torch": "flashdistill.hardware.targets.torch:TorchTarget",
    "torch-compile": "flashdistill.hardware.targets.torch:CompiledTorchTarget",
    "tensorrt": "flashdistill.hardware.targets.tensorrt:TensorRtTarget",
    "fake": "flashdistill.testing.fake_target:FakeTarget",
}
"""Serving runtimes: a new one is one file and one row here."""

Precision = Literal["float32", "bfloat16", "float16", "int8"]
"""In what the served model computes; ``int8`` is the runtime's own way of quantising."""

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


class MeasurementSettings(Section):
    """When a latency is known well enough."""

    tolerance: float = Field(
        default=0.02, gt=0, lt=1, description="half-width of the 95 % interval of the latency ratio"
    )
    final_tolerance: float = Field(default=0.01, gt=0, lt=1, description="the same for the delivered models")
    seconds: float = Field(
        default=10.0, gt=0, description="budget of one measurement; beyond it the result is marked noisy"
    )
    final_seconds: float = Field(default=30.0, gt=0, description="the same for the delivered models")
    block_ms: float = Field(default=10.0, gt=0, description="length of one uninterrupted block of runs")
    patience_seconds: float = Field(default=5.0, ge=0, description="longest wait for a busy machine to become quiet")

    @property
    def final(self) -> Self:
        """The settings with which delivered models are measured."""
        return self.model_copy(update={"tolerance": self.final_tolerance, "seconds": self.final_seconds})


def inherit_target(own: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    """The raw settings of a further target with the first target's values for what it leaves out."""
    merged = target | own
    if isinstance(target.get("measurement"), dict) and isinstance(own.get("measurement"), dict):
        merged["measurement"] = target["measurement"] | own["measurement"]
    return merged


class TargetSettings(Section):
    """Where and how the students will be served."""

    runtime: str = "onnxruntime"
    device: str = Field(default="cpu", description="cpu, cuda or cuda:N")
    precision: Precision = "float32"
    threads: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1, ge=1)
    sequence_length: int = Field(default=128, ge=1)
    cuda_graphs: bool = Field(default=True, description="replay calls as one CUDA graph, where the runtime can")
    host: str | None = Field(
        default=None, description="[user@]host with ssh access, as in ssh_config; null: this machine"
    )
    python: str = Field(default="python3", description="on the host: the interpreter that has flashdistill")
    peak_flops_per_s: float | None = Field(
        default=None, gt=0, description="of the device at this precision; null: the best matrix product measured"
    )
    peak_bytes_per_s: float | None = Field(
        default=None, gt=0, description="of the device's memory; null: the best triad measured"
    )
    measurement: MeasurementSettings = MeasurementSettings()

    @field_validator("runtime")
    @classmethod
    def _known(cls, runtime: str) -> str:
        if runtime not in TARGETS:
            raise ValueError(f"unknown runtime{did_you_mean(runtime, TARGETS)} (allowed: {', '.join(TARGETS)})")
        return runtime

    @field_validator("device")
    @classmethod
    def _a_device(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise ValueError("unknown device (allowed: cpu, cuda, cuda:N)")
        return device

    @field_validator("host")
    @classmethod
    def _a_host(cls, host: str | None) -> str | None:
        if host is not None and (host.startswith("-") or not host.strip() or any(c.isspace() for c in host)):
            raise ValueError("not a host; write [user@]host as for ssh")
        return host

    @model_validator(mode="after")
    def _the_runtime_can(self) -> Self:
        precisions: Mapping[str, tuple[str, ...]] = load(TARGETS, self.runtime, "runtime").precisions
        if self.device_type not in precisions:
            raise ValueError(f"{self.runtime} runs on {' and '.join(precisions)}, not on {self.device_type}")
        if self.precision not in precisions[self.device_type]:
            raise ValueError(
                f"{self.runtime} does not serve {self.precision} on {self.device_type} "
                f"(allowed: {', '.join(precisions[self.device_type])})"
            )
        return self

    @property
    def device_type(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.device.partition(":")[0]

    def identity(self) -> dict[str, Any]:
        """What a latency depends on: all but the place, the stopping rules and the peaks it is divided by."""
        free = {"measurement", "host", "python", "peak_flops_per_s", "peak_bytes_per_s"}
        return self.model_dump(mode="json", exclude=free)
