"""Configuration section ``training``: on what and how training computes, not what it learns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flashdistill.core.settings import Section

OptimizerName = Literal["adamw", "lamb"]
PrecisionName = Literal["auto", "float32", "bfloat16"]


class TrainingSettings(Section):
    """Device, arithmetic and memory of every training in a run."""

    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: a GPU where there is one")
    precision: PrecisionName = Field(
        "auto", description="of matrix products in training; auto: bfloat16 on GPUs that have it, float32 elsewhere"
    )
    compile: bool = Field(False, description="torch.compile the student in the pre-training distillation")
    micro_batch_size: int | None = Field(
        None, ge=1, description="sequences at a time in one process; null: the whole batch (gradients add up)"
    )
