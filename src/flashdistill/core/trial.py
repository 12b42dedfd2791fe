"""A trial: one architecture, what became of it, what was measured, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement


class TrialState(StrEnum):
    PENDING = "pending"
    """Suggested and not finished; a resumed run works on it again."""
    COMPLETE = "complete"
    INFEASIBLE = "infeasible"
    """Breaks a constraint; measured as far as needed to know, not trained."""
    FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """One row of the study.

    Attributes:
        number: 0 is the baseline, then in the order of suggestion.
        reason: why the trial is infeasible or failed; empty otherwise.
        measurements: by metric name; only finite values enter a study.
        costs: seconds by phase (``export``, ``measure``, ``distill``, ``evaluate``) and other
            costs with their unit in the name (``training_tokens``).
    """

    number: int
    architecture: Architecture
    state: TrialState
    reason: str = ""
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """The measured value of a metric; None where it was not measured."""
        measurement = self.measurements.get(metric)
        return None if measurement is None else measurement.value
