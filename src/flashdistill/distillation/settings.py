"""Configuration sections ``flash``, ``regular`` and ``signals``.

Flash and regular distillation are two budgets over the same procedure.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from flashdistill.core.settings import Section
from flashdistill.training.settings import OptimizerName

PresetName = Literal["paper", "mobilebert"]

BLOCK_RATE_OF_MOBILEBERT = 3.0
"""Peak rate inside the stages relative to that of pre-training distillation, in MobileBERT's public code."""

PRESETS: dict[str, dict[str, Any]] = {
    # Eq. 1 to 3 and a hard freeze: the defaults of the sections.
    "paper": {},
    "mobilebert": {
        "earlier_block_rate": 0.1,
        "block_schedule": "plateau",
        "reset_moments": False,
        "transfer_head": False,
        "losses": {
            "attention": 1.0,
            "feature_map": 0.0,
            "normalized_feature_map": 100.0,
            "feature_mean": 5000.0,
            "feature_variance": 5.0,
            "divide_by_blocks": True,
            "alpha": 0.5,
        },
    },
}
"""What a preset sets where the configuration is silent."""


class LossSettings(Section):
    """Weights of the losses; 0 leaves a term out.

    Per block: Eq. 1 and 2 of the paper, the terms of MobileBERT's public code, and MiniLMv2's
    relations. For the pre-training distillation: Eq. 3.
    """

    attention: float = Field(1.0, ge=0, description="L_MHA (Eq. 1): KL divergence of attention maps")
    feature_map: float = Field(1.0, ge=0, description="L_FM (Eq. 2): squared difference of feature maps")
    normalized_feature_map: float = Field(0.0, ge=0, description="the same behind a layer norm without parameters")
    feature_mean: float = Field(0.0, ge=0, description="squared difference of each token's mean feature")
    feature_variance: float = Field(0.0, ge=0, description="difference of each token's feature variance")
    relations: float = Field(0.0, ge=0, description="KL divergence of query, key and value relations (MiniLMv2)")
    relation_heads: int = Field(16, ge=1, description="heads that relations are formed in, whatever the models have")
    divide_by_blocks: bool = Field(False, description="divide the loss of a stage by the number of blocks")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the hard MLM loss (Eq. 3)")
    temperature: float = Field(1.0, gt=0, description="of the teacher's and the student's MLM distributions")
    nsp: float = Field(1.0, ge=0, description="weight of L_NSP (Eq. 3)")

    @model_validator(mode="after")
    def _features_are_taught(self) -> Self:
        if not (self.feature_map or self.normalized_feature_map or self.feature_mean or self.feature_variance):
            raise ValueError("a stage must teach the block's output; give one of the feature-map terms a weight")
        return self


class DistillationSettings(Section):
    """One budget of progressive distillation.

    The budget is a number of steps (``steps_per_block`` and ``pretraining_steps``; or one of
    ``pretraining_steps`` and ``steps``, from which ``progressive_ratio`` fills in the rest), or
    ``seconds`` per candidate, which a calibration on the baseline turns into steps.
    """

    preset: PresetName = Field("paper", description="what the keys below are where they are left out")
    steps_per_block: int | None = Field(None, ge=0)
    pretraining_steps: int | None = Field(None, ge=0)
    warmup_steps: int | None = Field(None, ge=0, description="of the pre-training distillation; null: one tenth")
    steps: int | None = Field(None, ge=1, description="of all blocks and of pre-training together")
    seconds: float | None = Field(None, gt=0)
    progressive_ratio: float = Field(
        0.48, ge=0, description="steps of all blocks per pre-training step, under `seconds`, `steps` or alone"
    )
    batch_size: int = Field(2048, ge=1)
    stage_batches: Literal["same", "new"] = Field(
        "same", description="whether all stages see the same batches, or each stage new ones"
    )
    optimizer: OptimizerName = "lamb"
    learning_rate: float = Field(1.5e-3, gt=0, description="peak of the pre-training distillation")
    block_learning_rate: float | None = Field(None, gt=0, description="peak in the stages; null: the same")
    block_schedule: Literal["linear", "plateau"] = Field(
        "linear", description="rate in a stage: linear decay, or almost constant; a tenth of warm-up first"
    )
    earlier_block_rate: float = Field(
        0.0, ge=0, le=1, description="rate of the blocks before the one in training; 0: frozen (hard freeze)"
    )
    reset_moments: bool = Field(True, description="begin every stage with fresh optimiser moments")
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="global norm")
    transfer_head: bool = Field(True, description="fit the masked-LM head to the teacher's behind the last stage")
    losses: LossSettings = LossSettings.model_validate({})

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("preset", "paper") not in PRESETS:
            return raw
        preset = PRESETS[raw.get("preset", "paper")]
        filled = preset | raw
        given = raw.get("losses", {})
        if isinstance(given, LossSettings):
            given = given.model_dump(include=given.model_fields_set)
        if isinstance(given, dict) and "losses" in preset:
            filled["losses"] = preset["losses"] | given
        if raw.get("preset") == "mobilebert" and "block_learning_rate" not in raw:
            rate = raw.get("learning_rate", cls.model_fields["learning_rate"].default)
            if isinstance(rate, int | float):
                filled["block_learning_rate"] = BLOCK_RATE_OF_MOBILEBERT * rate
        return filled

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        counts = (self.steps_per_block, self.pretraining_steps)
        if self.seconds is not None and any(v is not None for v in (*counts, self.steps, self.warmup_steps)):
            raise ValueError("seconds and step counts exclude each other")
        if self.steps is not None and any(value is not None for value in counts):
            raise ValueError("steps is the total and excludes steps_per_block and pretraining_steps")
        if self.seconds is None and self.steps is None and self.pretraining_steps is None:
            raise ValueError("set pretraining_steps (and steps_per_block), or steps, or seconds")
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
        """The same budget as step counts."""
        values: dict[str, Any] = self.model_dump() | {
            "seconds": None,
            "steps": None,
            "steps_per_block": steps_per_block,
            "pretraining_steps": pretraining_steps,
        }
        return type(self).model_validate(values)

    def with_ratio(self, num_blocks: int) -> Self:
        """The same budget with the step counts that `progressive_ratio` determines; others are kept."""
        if self.resolved or self.seconds is not None:
            return self
        ratio = self.progressive_ratio
        pretraining = self.pretraining_steps
        if pretraining is None:
            pretraining = max(1, round((self.steps or 0) / (1.0 + ratio)))
        return self.with_steps(round(ratio * pretraining / num_blocks), pretraining)


class FlashSettings(DistillationSettings):
    """Section ``flash``: the short distillation that shows a candidate's promise."""

    students_per_teacher: int = Field(
        1, ge=1, description="candidates distilled side by side; the teacher answers once for all of them"
    )


class SignalSettings(Section):
    """Section ``signals``: how much of what the models say about the batches is kept, and how.

    With enough room on disk the teacher answers once for a whole search. Beyond it, both
    models' hidden states before the block in training are kept, and every step runs one block
    of each; beyond that, both run up to this block.
    """

    disk_gib: float = Field(
        8.0, ge=0, description="for the teacher's answers; as much again for hidden states beyond memory"
    )
    memory_gib: float = Field(2.0, ge=0, description="for hidden states before the block in training, for each model")
    precision: Literal["half", "single"] = Field("half", description="of the teacher's answers")
    top_k: int | None = Field(
        None, ge=1, description="keep only the teacher's most probable tokens; null: the whole distribution, exactly"
    )


BUDGET_KEYS = ("steps_per_block", "pretraining_steps", "warmup_steps", "steps", "seconds")


def inherit(regular: dict[str, Any], flash: dict[str, Any]) -> dict[str, Any]:
    """The raw ``regular`` section with ``flash``'s values for what it leaves out, budgets aside."""
    own = (*BUDGET_KEYS, "students_per_teacher")
    merged = {key: value for key, value in flash.items() if key not in own} | regular
    if isinstance(flash.get("losses"), dict) and isinstance(regular.get("losses"), dict):
        merged["losses"] = flash["losses"] | regular["losses"]
    return merged
