"""Configuration sections ``space``, ``objectives``, ``constraints``, ``search`` and ``select``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from flashdistill.core.measurement import Constraint, Objective, check_metric
from flashdistill.core.registry import did_you_mean
from flashdistill.core.settings import Section

ALGORITHMS = {
    "bayesian": "flashdistill.exploration.algorithms.bayesian:BayesianSearch",
    "random": "flashdistill.exploration.algorithms.random:RandomSearch",
    "firefly": "flashdistill.exploration.algorithms.firefly:FireflySearch",
    "nsga2": "flashdistill.exploration.algorithms.nsga2:Nsga2Search",
}
"""Search algorithms: a new one is one file and one row here."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _distinct(values: list[int]) -> list[int]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"repeats {', '.join(map(str, repeated))}")
    return values


Choices = Annotated[
    list[Annotated[int, Field(ge=1)]],
    Field(min_length=1),
    BeforeValidator(_as_list),
]
"""One value or a list of values of a factor."""


class SpaceSettings(Section):
    """The design space: the choices of every factor (the paper's Table 1 by default)."""

    template: Literal["mobilebert", "autodistill"] = "mobilebert"
    num_blocks: Choices = Field(default=[24])
    embedding_size: int = Field(default=128, ge=8)
    hidden_size: Choices = Field(default=[128, 246, 384, 512])
    bottleneck_size: Choices = Field(default=[64, 96, 128, 160])
    num_heads: Choices = Field(default=[1, 2, 4, 8])
    intermediate_size: Choices = Field(default=[384, 512, 640])
    num_feedforward: Choices = Field(default=[2, 4, 6])

    @field_validator(
        "num_blocks", "hidden_size", "bottleneck_size", "num_heads", "intermediate_size", "num_feedforward"
    )
    @classmethod
    def _no_repeats(cls, values: list[int]) -> list[int]:
        return _distinct(values)

    @model_validator(mode="after")
    def _embedding_fits(self) -> Self:
        # MobileBERT's MLM head extends the embedding table to the hidden size.
        if min(self.hidden_size) < self.embedding_size:
            raise ValueError(
                f"embedding_size {self.embedding_size} is larger than the smallest hidden_size {min(self.hidden_size)}"
            )
        return self


def _parse_objective(value: object) -> object:
    if isinstance(value, Objective):
        return value
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in ("maximize", "minimize"):
        raise ValueError("write {maximize: METRIC} or {minimize: METRIC}")
    goal, metric = next(iter(value.items()))
    check_metric(str(metric))
    return Objective(metric, goal)


def _parse_constraint(value: object) -> object:
    return value if isinstance(value, Constraint) else Constraint.parse(value)  # type: ignore[arg-type]


ObjectiveSetting = Annotated[
    Objective,
    BeforeValidator(_parse_objective),
    PlainSerializer(lambda objective: {objective.goal: objective.metric}),
]
ConstraintSetting = Annotated[Constraint, BeforeValidator(_parse_constraint), PlainSerializer(str)]


class SearchSettings(Section):
    """How the space is searched."""

    algorithm: str = "bayesian"
    goal: Literal["front", "beat-baseline"] = "front"
    trials: int = Field(default=100, ge=0, description="architectures to train beside the baseline")
    latency_probes: int = Field(
        default=0, ge=0, description="architectures to measure beforehand without training them, spread over the space"
    )
    confirm_seeds: int = Field(
        default=2, ge=0, description="further training seeds for the baseline and for what is declared a winner"
    )
    early_stopping: bool = Field(
        default=False, description="end the flash distillation of candidates that cannot come onto the front"
    )
    warm_start: Path | None = Field(
        default=None, description="the directory of another run whose trials inform this search"
    )
    storage: str | None = Field(default=None, description="Optuna storage URL; null: SQLite in the run directory")

    @field_validator("algorithm")
    @classmethod
    def _known(cls, algorithm: str) -> str:
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"unknown algorithm{did_you_mean(algorithm, ALGORITHMS)} (allowed: {', '.join(ALGORITHMS)})"
            )
        return algorithm


class SelectSettings(Section):
    """Which architectures of the search are distilled in full."""

    source: Literal["pareto"] = Field(default="pareto", alias="from")
    top: int = Field(default=3, ge=1)
    include_baseline: bool = Field(
        default=True, description="distil the baseline in full too, to compare at equal budgets"
    )
