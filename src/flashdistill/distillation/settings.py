"""Configuration sections ``flash`` and ``regular``: two budgets over the same procedure."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from flashdistill.core.settings import Section
from flashdistill.training.settings import OptimizerName


class LossSettings(Section):
    """Weights of the losses of the paper's Eq. 1 to 3."""

    attention: float = Field(1.0, ge=0, description="weight of L_MHA (Eq. 1)")
    feature_map: float = Field(1.0, ge=0, description="weight of L_FM (Eq. 2)")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the hard MLM loss (Eq. 3)")
    temperature: float = Field(1.0, gt=0, description="of the teacher's and the student's MLM distributions")
    nsp: float = Field(1.0, ge=0, description="weight of L_NSP (Eq. 3)")


class DistillationSettings(Section):
    """One budget of progressive distillation.

    Either steps are given, or ``seconds`` per candidate, from which a calibration on the
    baseline derives steps that hold for every candidate.
    """

    steps_per_block: int | None = Field(None, ge=0)
    pretraining_steps: int | None = Field(None, ge=0)
    warmup_steps: int | None = Field(None, ge=0, description="of the pre-training distillation; null: one tenth")
    seconds: float | None = Field(None, gt=0)
    progressive_ratio: float = Field(0.48, ge=0, description="progressive steps per pre-training step under `seconds`")
    batch_size: int = Field(2048, ge=1)
    optimizer: OptimizerName = "lamb"
    learning_rate: float = Field(1.5e-3, gt=0, description="peak of the pre-training distillation")
    block_learning_rate: float | None = Field(None, gt=0, description="peak in the stages; null: the same")
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="global norm")
    transfer_head: bool = Field(True, description="fit the masked-LM head to the teacher's behind the last stage")
    losses: LossSettings = LossSettings.model_validate({})

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        steps = (self.steps_per_block, self.pretraining_steps)
        if self.seconds is None and None in steps:
            raise ValueError("set steps_per_block and pretraining_steps, or seconds")
        if self.seconds is not None and any(value is not None for value in (*steps, self.warmup_steps)):
            raise ValueError("seconds and step counts exclude each other")
        return self

    @property
    def resolved(self) -> bool:
        """True once the step counts are known."""
        return self.steps_per_block is not None and self.pretraining_steps is not None

    def total_steps(self, num_blocks: int) -> int:
        """Optimiser steps of all stages and of the pre-training distillation."""
        stages = num_blocks * (self.steps_per_block or 0)
        return stages + self.head_steps(num_blocks) + (self.pretraining_steps or 0)

    def head_steps(self, num_blocks: int) -> int:
        """Steps of the head transfer: as many as all stages together, at a fraction of their cost."""
        return num_blocks * (self.steps_per_block or 0) if self.transfer_head else 0

    def with_steps(self, steps_per_block: int, pretraining_steps: int) -> Self:
        """The same budget with step counts in place of seconds."""
        values: dict[str, Any] = self.model_dump() | {
            "seconds": None,
            "steps_per_block": steps_per_block,
            "pretraining_steps": pretraining_steps,
        }
        return type(self).model_validate(values)


def inherit(regular: dict[str, Any], flash: dict[str, Any]) -> dict[str, Any]:
    """The raw ``regular`` section with ``flash``'s values for what it leaves out, budgets aside."""
    budget = ("steps_per_block", "pretraining_steps", "warmup_steps", "seconds")
    merged = {key: value for key, value in flash.items() if key not in budget} | regular
    if isinstance(flash.get("losses"), dict) and isinstance(regular.get("losses"), dict):
        merged["losses"] = flash["losses"] | regular["losses"]
    return merged
