"""What a design space is like before anything is measured: its size and its parameter counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.measurement import Constraint
from flashdistill.core.seeds import generator
from flashdistill.exploration.constraints import known_without_measuring, violations
from flashdistill.models.parameter_count import count_parameters

_MAX_COUNTED = 20_000
"""Up to this many distinct sizes are counted one by one (about 50 ms); of more, as many are sampled."""


@dataclass(frozen=True)
class SpaceProfile:
    """A design space in numbers.

    Attributes:
        size: valid architectures.
        smallest, largest: the architectures with the fewest and the most parameters.
        smallest_parameters, largest_parameters: their parameter counts.
        size_limits: the constraints that need no measurement.
        within_limits: how many architectures satisfy them all.
        estimated: ``within_limits`` was extrapolated from a random sample.
    """

    size: int
    smallest: Architecture
    smallest_parameters: int
    largest: Architecture
    largest_parameters: int
    size_limits: tuple[Constraint, ...]
    within_limits: int
    estimated: bool

    def __str__(self) -> str:
        lines = [
            f"{self.size:,} architectures",
            f"smallest: {self.smallest} with {self.smallest_parameters:,} parameters",
            f"largest: {self.largest} with {self.largest_parameters:,} parameters",
        ]
        if self.size_limits:
            about = "about " if self.estimated else ""
            limits = ", ".join(map(str, self.size_limits))
            lines.append(f"{about}{self.within_limits:,} of {self.size:,} satisfy {limits}")
        else:
            lines.append("no limit on the size")
        return "\n".join(lines)


def profile_space(
    axes: Sequence[Sequence],
    *,
    make: Callable[[Sequence], Architecture],
    weigh: Callable[[Architecture], int],
    size: int,
    family: StudentFamily,
    constraints: Iterable[Constraint],
    baseline: Architecture | None,
) -> SpaceProfile:
    """Profile the product of ``axes``, each with ascending choices.

    Args:
        make: turns one choice per axis into an architecture.
        weigh: how many architectures of the space have this one's size.
        size: architectures of the whole space, the sum of all weights.

    Raises:
        ValueError: a size limit is relative and ``baseline`` is None.
    """
    limits = tuple(known_without_measuring(constraints))
    reference = {} if baseline is None else {"num_parameters": float(count_parameters(baseline, family))}

    def allowed(architecture: Architecture) -> bool:
        return not violations(limits, {"num_parameters": count_parameters(architecture, family)}, reference)

    # Every factor adds parameters, so the extremes are at the ends of the axes.
    smallest, largest = make([axis[0] for axis in axes]), make([axis[-1] for axis in axes])
    estimated = bool(limits) and math.prod(len(axis) for axis in axes) > _MAX_COUNTED
    if not limits:
        within = size
    elif estimated:
        rng = generator("space profile")
        draws = [make([axis[int(rng.integers(len(axis)))] for axis in axes]) for _ in range(_MAX_COUNTED)]
        weights = np.array([weigh(architecture) for architecture in draws], dtype=float)
        share = weights[[allowed(architecture) for architecture in draws]].sum() / weights.sum()
        within = round(float(share) * size)
    else:
        within = sum(weigh(point) for point in map(make, itertools.product(*axes)) if allowed(point))
    return SpaceProfile(
        size=size,
        smallest=smallest,
        smallest_parameters=count_parameters(smallest, family),
        largest=largest,
        largest_parameters=count_parameters(largest, family),
        size_limits=limits,
        within_limits=within,
        estimated=estimated,
    )
