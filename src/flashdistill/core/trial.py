"""A trial: one architecture, what became of it, what was measured, what it cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement


class TrialState(StrEnum):
    PENDING = "pending"
    """Suggested and not finished; a resumed run works on it again."""
    COMPLETE = "complete"
    INFEASIBLE = "infeasible"
    """Breaks a constraint; measured as far as needed to know, not trained."""
    STOPPED = "stopped"
    """Measured, and its distillation ended early: it could not have come onto the front."""
    FAILED = "failed"
    MEASURED = "measured"
    """Not a trial yet: measured to inform the latency models, trained never; it may be suggested."""


@dataclass(frozen=True)
class Trial:
    """One row of the study.

    Attributes:
        number: 0 is the baseline, then in the order of suggestion.
        reason: why the trial is infeasible, stopped or failed; empty otherwise.
        measurements: by metric name; only finite values enter a study.
        costs: seconds by phase (``export``, ``measure``, ``distill``, ``evaluate``) and other
            costs with their unit in the name (``training_tokens``).
        curve: by the share of the pre-training distillation's steps done, in (0, 1), what was
            scored then, on a fixed part of the validation text.
        confirmations: what further training seeds gave, one mapping by metric for each.
    """

    number: int
    architecture: Architecture
    state: TrialState
    reason: str = ""
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[float, Mapping[str, Measurement]] = field(default_factory=dict)
    confirmations: Sequence[Mapping[str, Measurement]] = ()

    def value(self, metric: str) -> float | None:
        """The value of a metric as the search measured it; None where it did not."""
        measurement = self.measurements.get(metric)
        return None if measurement is None else measurement.value

    def pooled(self, metric: str) -> Measurement | None:
        """The mean over all training seeds, the search's own among them; None where it was not measured.

        The standard error of a mean comes from the scatter of the seeds; without confirmations,
        and for what does not depend on training, the measurement is given as it is.
        """
        first = self.measurements.get(metric)
        if first is None or (count := self.seeds(metric)) < 2:
            return first
        runs = [first, *(run[metric] for run in self.confirmations if metric in run)]
        values = [run.value for run in runs]
        return replace(
            first,
            value=statistics.fmean(values),
            stderr=statistics.stdev(values) / count**0.5,
            samples=sum(run.samples for run in runs),
            details={"seeds": count},
        )

    def seeds(self, metric: str) -> int:
        """How many training runs have measured a metric."""
        return (metric in self.measurements) + sum(metric in run for run in self.confirmations)


@dataclass(frozen=True)
class Verdict:
    """Whether a student that was trained with several seeds beats the baseline.

    Attributes:
        number: of the student's trial.
        seeds, baseline_seeds: training runs behind the two means, the search's own among them.
        observed: it dominates the baseline in the search's own runs of both.
        confirmed: it dominates the baseline in the means over all seeds.
        margin: in the objective where it is closest to the baseline, the difference of the means
            in standard errors, positive where the student is better; None where no standard error
            is known.
    """

    number: int
    seeds: int
    baseline_seeds: int
    observed: bool
    confirmed: bool
    margin: float | None = None
