"""Students that beat the baseline: seen in one training, and what is left of it over several."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from flashdistill.core.trial import Trial, Verdict
from flashdistill.delivery.comparison import beats
from flashdistill.delivery.record import RunRecord

CLEAR = 2.0
"""Standard errors of the difference from which on a margin counts as clear."""

Word = Literal["confirmed", "observed once", "not confirmed", "no winner"]
_ORDER: tuple[Word, ...] = ("confirmed", "observed once", "not confirmed", "no winner")


def over_seeds(trial: Trial) -> Trial:
    """The trial with means over its training seeds; itself where it was trained once."""
    if not trial.confirmations:
        return trial
    means = {name: mean for name in trial.measurements if (mean := trial.pooled(name)) is not None}
    return dataclasses.replace(trial, measurements=means)


def training_runs(trial: Trial) -> int:
    """How many times the architecture was trained, the search's own run included."""
    return 1 + len(trial.confirmations)


@dataclass(frozen=True)
class Winner:
    """A student that beat the baseline in the search, or was trained again.

    Attributes:
        trial: as the search saw it.
        observed: it beat the baseline in the search's own runs.
        holds: it beats the baseline by all that is known now, means over seeds counting.
        verdict: on all its seeds; None where it was trained once.
    """

    trial: Trial
    observed: bool
    holds: bool
    verdict: Verdict | None

    @property
    def word(self) -> Word:
        if self.holds:
            return "observed once" if self.verdict is None else "confirmed"
        return "not confirmed" if self.observed else "no winner"

    @property
    def margin(self) -> float | None:
        """Its smallest lead over the baseline in standard errors; None where that is not known."""
        return None if self.verdict is None else self.verdict.margin

    @property
    def clear(self) -> bool:
        return self.holds and self.margin is not None and self.margin > CLEAR


def winners(record: RunRecord) -> list[Winner]:
    """Every student that beat the baseline once or was trained again, the surest first."""
    baseline = record.baseline_trial
    if baseline is None or baseline not in record.evaluated:
        return []
    verdicts = {verdict.number: verdict for verdict in record.verdicts}
    bar, found = over_seeds(baseline), []
    for trial in record.evaluated:
        verdict = verdicts.get(trial.number)
        observed = beats(trial, baseline, record.objectives)
        if trial.number == 0 or not (observed or verdict):
            continue
        holds = verdict.confirmed if verdict else beats(trial, bar, record.objectives)
        found.append(Winner(trial, observed, holds, verdict))
    return sorted(found, key=lambda winner: (_ORDER.index(winner.word), -(winner.margin or 0.0)))
