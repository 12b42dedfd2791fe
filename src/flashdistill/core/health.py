"""How well a search is going: figures a report shows, as plain values.

`flashdistill.exploration.health` computes them; what to do about them is said by the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flashdistill.core.architecture import Architecture
from flashdistill.core.trial import TrialState

CONFIDENT = 1.96
"""Standard errors on either side of a value that hold the truth 19 times in 20."""


@dataclass(frozen=True)
class PredictionQuality:
    """How well a metric of an architecture is predicted from the trials of all others.

    The sequences have one entry per observation, in the metric's unit.

    Attributes:
        predicted: median of the prediction made without this observation.
        low, high: two standard deviations of the prediction, noise included, either side of it.
        logarithmic: whether the metric is modelled, and best drawn, by its logarithm.
        r2: share of the variance explained, 1 - errors² / variance, on the modelled scale; at
            most 0 for a model that is no better than the mean. None where all values are equal.
        tau: Kendall's rank correlation of prediction and observation, -1 to 1.
        within_two: share of the observations between ``low`` and ``high``; 0.95 is right.
    """

    metric: str
    observed: Sequence[float]
    predicted: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    logarithmic: bool
    r2: float | None
    tau: float | None
    within_two: float


@dataclass(frozen=True)
class Noise:
    """The noise of an objective against the differences that the search is to find.

    Attributes:
        deviation: standard deviation of one observation, in the metric's unit.
        span: largest minus smallest value among the complete trials.
        source: ``seeds`` where the deviation is the scatter between trainings of the same
            architecture, ``standard errors`` where it is what single observations say of themselves.
        observations: how many stand behind the deviation.
    """

    metric: str
    deviation: float
    span: float
    source: Literal["seeds", "standard errors"]
    observations: int

    @property
    def share(self) -> float:
        """The deviation as a share of the span; infinite where all values are equal."""
        return self.deviation / self.span if self.span > 0 else math.inf

    @property
    def resolution(self) -> float:
        """The smallest difference of two single observations that can be told from noise, 19 times in 20."""
        return CONFIDENT * math.sqrt(2.0) * self.deviation


@dataclass(frozen=True)
class Reason:
    """Why trials failed.

    Attributes:
        text: of the first of them.
        count: how many give the same reason but for the numbers in it.
        example: the first of them.
    """

    text: str
    count: int
    example: Architecture


@dataclass(frozen=True)
class SearchHealth:
    """The state of a search after its last finished trial; the baseline is not counted.

    Attributes:
        counts: students by state; those only measured (`TrialState.MEASURED`) are no students
            but counted here too.
        broken: infeasible students by the constraint they break, as the user wrote it.
        failures: why trials failed, the commonest first.
        unmoved: students trained since one last came onto the front.
        untried: architectures within the size limits that have no trial.
        predictions: of each metric that has a model; empty where there are too few trials.
        noise: of each objective whose noise is known.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    broken: Mapping[str, int] = field(default_factory=dict)
    failures: Sequence[Reason] = ()
    unmoved: int = 0
    untried: int = 0
    predictions: Sequence[PredictionQuality] = ()
    noise: Sequence[Noise] = ()

    def count(self, *states: TrialState) -> int:
        """Students in any of these states."""
        return sum(self.counts.get(str(state), 0) for state in states)

    @property
    def trained(self) -> int:
        """Students whose distillation was begun and told something: complete or stopped early."""
        return self.count(TrialState.COMPLETE, TrialState.STOPPED)

    @property
    def feasible_share(self) -> float | None:
        """Students that keep every constraint, of those known to keep or to break them; None before the first."""
        known = self.trained + self.count(TrialState.INFEASIBLE)
        return self.trained / known if known else None
