"""Configuration section ``training``: on what and how training computes, not what it learns."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from flashdistill.core.settings import Section

OptimizerName = Literal["adamw", "lamb"]
PrecisionName = Literal["auto", "float32", "bfloat16"]


def _known_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError("allowed: auto, cpu, mps, cuda, or one of several GPUs as in cuda:1")
    return name


DeviceName = Annotated[str, AfterValidator(_known_device)]


class TrainingSettings(Section):
    """Device, arithmetic and memory of every training in a run."""

    device: DeviceName = Field("auto", description="auto: a GPU where there is one")
    precision: PrecisionName = Field(
        "auto", description="of matrix products in training; auto: bfloat16 on GPUs that have it, float32 elsewhere"
    )
    compile: bool = Field(False, description="torch.compile the student in the pre-training distillation")
    micro_batch_size: int | None = Field(
        None, ge=1, description="sequences at a time in one process; null: the whole batch (gradients add up)"
    )
