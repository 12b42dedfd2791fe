"""What another training seed changes: the scatter between runs of the same architecture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from flashdistill.core.trial import Trial


def seed_deviation(trials: Iterable[Trial], metric: str) -> float | None:
    """The standard deviation of a metric between training seeds, pooled over all confirmed trials.

    Two or three runs of one architecture say little about their scatter; taken to be the same for
    all architectures, it is known from all of them together.

    Returns:
        In the metric's unit; None where no architecture has been trained twice.
    """
    squares, freedom = 0.0, 0
    for trial in trials:
        runs = [trial.measurements, *trial.confirmations]
        values = [run[metric].value for run in runs if metric in run]
        if len(values) > 1:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    return math.sqrt(squares / freedom) if freedom else None
