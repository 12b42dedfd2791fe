"""Constraints, checked as soon as their metric is known: by formula, by measuring, by training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import KNOWN_WITHOUT_MEASURING, Constraint


def known_without_measuring(constraints: Iterable[Constraint]) -> list[Constraint]:
    """Those decided by the architecture alone (its size)."""
    return [constraint for constraint in constraints if constraint.metric in KNOWN_WITHOUT_MEASURING]


def violations(
    constraints: Iterable[Constraint], values: Mapping[str, float], baseline: Mapping[str, float]
) -> list[str]:
    """A sentence for every broken constraint; constraints on metrics not in ``values`` are skipped.

    Args:
        values: by metric, in the metric's unit, what is known of the architecture so far.
        baseline: the baseline's values, for relative bounds.

    Raises:
        ValueError: a bound is relative and the baseline's value is missing.
    """
    return [
        constraint.explain(values[constraint.metric], baseline.get(constraint.metric))
        for constraint in constraints
        if constraint.metric in values
        and not constraint.satisfied(values[constraint.metric], baseline.get(constraint.metric))
    ]


def excess(constraint: Constraint, value: float, baseline: float | None) -> float:
    """How far the value lies beyond the limit, relative to the limit; at most 0 where satisfied.

    Raises:
        ValueError: the bound is relative and the baseline's value is missing.
    """
    limit = constraint.limit(baseline)
    distance = value - limit if constraint.op == "<=" else limit - value
    return distance / abs(limit) if limit else distance


def nearest_violators(
    candidates: Iterable[tuple[Architecture, Mapping[str, float]]],
    constraints: Sequence[Constraint],
    baseline: Mapping[str, float],
    count: int = 3,
) -> list[str]:
    """For the message that nothing is feasible: the architectures that come closest.

    The distance of an architecture is its worst relative excess over a limit. Architectures that
    break nothing as far as is known are left out.

    Args:
        candidates: architectures with what is known of them, by metric.

    Returns:
        Up to ``count`` lines, nearest first: the architecture and what it breaks.
    """
    ranked: dict[Architecture, tuple[float, str]] = {}
    for architecture, values in candidates:
        broken = violations(constraints, values, baseline)
        if broken:
            worst = max(
                excess(constraint, values[constraint.metric], baseline.get(constraint.metric))
                for constraint in constraints
                if constraint.metric in values
            )
            ranked[architecture] = (worst, f"{architecture}: {'; '.join(broken)}")
    nearest = sorted(ranked, key=lambda architecture: (ranked[architecture][0], architecture.values()))
    return [ranked[architecture][1] for architecture in nearest[:count]]
