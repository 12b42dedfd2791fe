"""The scatter of repeated observations, pooled over groups that share one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence


def pooled_deviation(groups: Iterable[Sequence[float]]) -> tuple[float, int] | None:
    """The standard deviation within groups, and its degrees of freedom.

    Two or three values say little about their scatter; taken to be the same in all groups, it is
    known from all of them together. A group of one value tells nothing.

    Returns:
        None where no group has two values.
    """
    squares, freedom = 0.0, 0
    for values in groups:
        if len(values) > 1:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else None
