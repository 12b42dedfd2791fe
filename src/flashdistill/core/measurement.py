"""Numbers with units, and what a user asks of them: objectives and constraints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from flashdistill.core.registry import did_you_mean

Goal = Literal["maximize", "minimize"]

METRICS: dict[str, tuple[str, Goal]] = {
    "mlm_accuracy": ("fraction", "maximize"),
    "mlm_loss": ("nats", "minimize"),
    "perplexity": ("", "minimize"),
    "nsp_accuracy": ("fraction", "maximize"),
    "teacher_agreement": ("fraction", "maximize"),
    "teacher_kl": ("nats", "minimize"),
    "served_mlm_accuracy": ("fraction", "maximize"),
    "latency_ms": ("ms", "minimize"),
    "latency_p50_ms": ("ms", "minimize"),
    "latency_p90_ms": ("ms", "minimize"),
    "latency_p99_ms": ("ms", "minimize"),
    "throughput_per_s": ("sequences/s", "maximize"),
    "flops": ("FLOP", "minimize"),
    "flops_utilization": ("fraction", "maximize"),
    "bandwidth_utilization": ("fraction", "maximize"),
    "num_parameters": ("parameters", "minimize"),
    "peak_memory_bytes": ("bytes", "minimize"),
    "artifact_bytes": ("bytes", "minimize"),
}
"""Every metric: its unit and the direction that is usually wanted."""

AGAINST_TEACHER = ("teacher_agreement", "teacher_kl")
"""Metrics that ask the teacher, too: of finished students always, in the search only where it asks for them."""

KNOWN_WITHOUT_MEASURING = ("num_parameters",)
"""Metrics that follow from the architecture alone."""

_MEASURED_WITH_RANDOM_WEIGHTS = (
    "latency_ms",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "throughput_per_s",
    "flops",
    "flops_utilization",
    "bandwidth_utilization",
    "peak_memory_bytes",
    "artifact_bytes",
)

MEASURED_ON_TARGET = (*_MEASURED_WITH_RANDOM_WEIGHTS, "served_mlm_accuracy")
"""Metrics of an architecture on a target. Those of a further target bear its name: ``latency_ms@gpu``."""


def at_target(metric: str, target: str | None) -> str:
    """The name of a metric on a further target, ``latency_ms@gpu``; on the first one (None) its own."""
    return metric if target is None else f"{metric}@{target}"


def metric_parts(name: str) -> tuple[str, str | None]:
    """The metric and the further target that a name speaks of; the inverse of `at_target`."""
    metric, _, target = name.partition("@")
    return metric, target or None


def metric_unit(name: str) -> str:
    """The unit of a metric, on whichever target; empty for one that is not in `METRICS`."""
    metric = metric_parts(name)[0]
    return METRICS[metric][0] if metric in METRICS else ""


def known_before_training(name: str) -> bool:
    """Whether random weights suffice to know a metric."""
    return metric_parts(name)[0] in (*KNOWN_WITHOUT_MEASURING, *_MEASURED_WITH_RANDOM_WEIGHTS)


def check_metric(name: str) -> None:
    """Refuse a name that no measurement can have.

    Raises:
        ValueError: says what is allowed.
    """
    metric, target = metric_parts(name)
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}{did_you_mean(metric, METRICS)} (allowed: {', '.join(METRICS)})")
    if target is not None and metric not in MEASURED_ON_TARGET:
        raise ValueError(f"{metric} does not depend on the target; write {metric} without @{target}")


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
        return cls(name, value, metric_unit(name), stderr, samples, environment)

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


_CONSTRAINT = re.compile(r"^\s*([\w@-]+)\s*(<=|>=)\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(x?)\s*$")


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
        check_metric(metric)
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
