"""What another training seed changes: the scatter between runs of the same architecture."""

from __future__ import annotations

from collections.abc import Iterable

from flashdistill.core.scatter import pooled_deviation
from flashdistill.core.trial import Trial


def seed_deviation(trials: Iterable[Trial], metric: str) -> float | None:
    """The standard deviation of a metric between training seeds, pooled over all confirmed trials.

    Returns:
        In the metric's unit; None where no architecture has been trained twice.
    """
    runs = ((trial.measurements, *trial.confirmations) for trial in trials)
    found = pooled_deviation([one[metric].value for one in each if metric in one] for each in runs)
    return None if found is None else found[0]
