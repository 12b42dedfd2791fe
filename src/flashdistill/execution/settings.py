"""Configuration section ``execution``: where a candidate's training runs, and with how much of a machine."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from flashdistill.core.registry import did_you_mean
from flashdistill.core.settings import Section

EXECUTORS = {
    "processes": "flashdistill.execution.processes:ProcessExecutor",
    "ray": "flashdistill.execution.ray_cluster:RayExecutor",
    "inprocess": "flashdistill.execution.inprocess:InProcessExecutor",
}
"""Where jobs can run: a new place is one file and one row here."""

_OF_RAY_ALONE = ("address", "resources_per_training", "processes_per_training")


class TrainingResources(Section):
    """What a training takes of a Ray cluster; a fraction of a GPU lets several share one."""

    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)


class ExecutionSettings(Section):
    """How many trainings run at a time, and where."""

    kind: str = Field("processes", description="processes, ray, or inprocess for debugging")
    workers: int = Field(1, ge=1, description="trainings at a time")
    memory_gib: float | None = Field(
        None, gt=0, description="of one worker, beyond which its candidates fail; null: its share of this machine's"
    )
    threads: int | None = Field(None, ge=1, description="of one worker; null: its share of this process's threads")
    retries: int = Field(
        1, ge=0, description="how often a training goes on from its last checkpoint whose process was killed"
    )
    address: str | None = Field(None, description="of the Ray cluster; null: one is started on this machine")
    resources_per_training: TrainingResources = TrainingResources.model_validate({})
    processes_per_training: int = Field(
        1, ge=1, description="on Ray: processes, with the resources each, that share a regular distillation"
    )

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in EXECUTORS:
            raise ValueError(f"unknown kind{did_you_mean(kind, EXECUTORS)} (allowed: {', '.join(EXECUTORS)})")
        return kind

    @model_validator(mode="after")
    def _applies(self) -> Self:
        if self.kind == "inprocess" and self.workers > 1:
            raise ValueError("kind inprocess has one worker, this process; set kind to processes or ray for more")
        defaults = type(self).model_fields
        misplaced = [name for name in _OF_RAY_ALONE if getattr(self, name) != defaults[name].default]
        if self.kind != "ray" and misplaced:
            raise ValueError(f"{', '.join(misplaced)} applies to kind ray only, and kind is {self.kind}")
        return self
