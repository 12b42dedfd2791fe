"""Numbers with units, and what a user asks of them: objectives and constraints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

Goal = Literal["maximize", "minimize"]

METRICS: dict[str, tuple[str, Goal]] = {
    "mlm_accuracy": ("fraction", "maximize"),
    "mlm_loss": ("nats", "minimize"),
    "nsp_accuracy": ("fraction", "maximize"),
    "latency_ms": ("ms", "minimize"),
    "num_parameters": ("parameters", "minimize"),
    "peak_memory_bytes": ("bytes", "minimize"),
    "artifact_bytes": ("bytes", "minimize"),
}
"""Every metric: its unit and the direction that is usually wanted."""

KNOWN_WITHOUT_MEASURING = ("num_parameters",)
"""Metrics that follow from the architecture alone."""

KNOWN_BEFORE_TRAINING = (
    *KNOWN_WITHOUT_MEASURING,
    "latency_ms",
    "peak_memory_bytes",
    "artifact_bytes",
)
"""Metrics that random weights suffice for."""


@dataclass(frozen=True)
class Measurement:
    """A value that knows its unit, its uncertainty and where it was taken.

    Attributes:
        stderr: standard error in the same unit; None where it is exact or unknown.
        samples: how many observations stand behind the value.
        environment: where it was taken (machine, runtime, versions, data, seed).
        details: further figures of the same observation (percentiles, ratio, rounds).
    """

    name: str
    value: float
    unit: str
    stderr: float | None = None
    samples: int = 1
    environment: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    details: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, value: float, *, stderr: float | None = None, samples: int = 1, **environment: str | int
    ) -> Self:
        """A measurement of a known metric; the unit comes from `METRICS`."""
        return cls(name, value, METRICS[name][0], stderr, samples, environment)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Objective:
    """A metric to maximise or minimise."""

    metric: str
    goal: Goal

    def oriented(self, value: float) -> float:
        """The value turned so that larger is better."""
        return value if self.goal == "maximize" else -value


_CONSTRAINT = re.compile(r"^\s*(\w+)\s*(<=|>=)\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(x?)\s*$")


@dataclass(frozen=True)
class Constraint:
    """``metric <= bound``; a relative bound (``0.8x``) multiplies the baseline's value."""

    metric: str
    op: Literal["<=", ">="]
    bound: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.bound:g}{'x' if self.relative else ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``num_parameters <= 26e6`` or ``latency_ms <= 0.8x``.

        Raises:
            ValueError: the text has another form, or the metric is unknown.
        """
        match = _CONSTRAINT.match(text) if isinstance(text, str) else None
        if not match:
            raise ValueError(
                f"{text!r} is not a constraint; write METRIC <= BOUND or METRIC >= BOUND, for "
                "example 'num_parameters <= 26e6' or, relative to the baseline, 'latency_ms <= 0.8x'"
            )
        metric, op, bound, relative = match.groups()
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; allowed: {', '.join(METRICS)}")
        return cls(metric, op, float(bound), bool(relative))  # type: ignore[arg-type]

    def limit(self, baseline: float | None) -> float:
        """The bound in the metric's unit.

        Raises:
            ValueError: the bound is relative and the baseline's value is not known.
        """
        if not self.relative:
            return self.bound
        if baseline is None:
            raise ValueError(f"{self} needs the baseline's {self.metric}")
        return self.bound * baseline

    def satisfied(self, value: float, baseline: float | None = None) -> bool:
        limit = self.limit(baseline)
        return value <= limit if self.op == "<=" else value >= limit

    def explain(self, value: float, baseline: float | None = None) -> str:
        """A sentence for a broken constraint: what was got, what is allowed."""
        limit = self.limit(baseline)
        return f"{self.metric} = {value:.6g} breaks {self} (limit {limit:.6g})"
