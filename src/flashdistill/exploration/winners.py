"""Observed and confirmed winners: who beats the baseline in one run, and who in the mean of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Objective, known_before_training
from flashdistill.core.trial import Trial, TrialState, Verdict
from flashdistill.exploration.pareto import dominates, oriented_values
from flashdistill.exploration.seed_noise import seed_deviation


def observed_winners(trials: Sequence[Trial], objectives: Sequence[Objective], baseline: Architecture) -> list[Trial]:
    """The trials that dominate the baseline in the search's own runs, in the order of the trials."""
    reference = _complete(trials, baseline)
    bar = None if reference is None else _observed(reference, objectives)
    if bar is None:
        return []
    return [
        trial for trial in trials if (values := _observed(trial, objectives)) is not None and dominates(values, bar)
    ]


def verdicts(trials: Sequence[Trial], objectives: Sequence[Objective], baseline: Architecture) -> list[Verdict]:
    """One for every student that was trained with more than one seed, in the order of the trials.

    The mean of a winner includes the run by which it was chosen, which flatters it a little: with
    n seeds by an n-th of that run's luck.
    """
    reference = _complete(trials, baseline)
    bar = None if reference is None else oriented_values(reference, objectives)
    if reference is None or bar is None:
        return []
    scatter = {objective.metric: seed_deviation(trials, objective.metric) for objective in objectives}
    observed = {trial.number for trial in observed_winners(trials, objectives, baseline)}
    found = []
    for trial in trials:
        values = oriented_values(trial, objectives)
        if trial is reference or values is None or not trial.confirmations:
            continue
        found.append(
            Verdict(
                number=trial.number,
                seeds=_runs(trial, objectives),
                baseline_seeds=_runs(reference, objectives),
                observed=trial.number in observed,
                confirmed=dominates(values, bar),
                margin=_margin(trial, reference, objectives, scatter),
            )
        )
    return found


def _complete(trials: Sequence[Trial], architecture: Architecture) -> Trial | None:
    found = (t for t in trials if t.architecture == architecture and t.state is TrialState.COMPLETE)
    return next(found, None)


def _observed(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """Oriented values of the search's own run; None where one is unknown."""
    values = [trial.value(objective.metric) for objective in objectives]
    if trial.state is not TrialState.COMPLETE or any(value is None for value in values):
        return None
    return tuple(o.oriented(value) for o, value in zip(objectives, values, strict=True) if value is not None)


def _runs(trial: Trial, objectives: Sequence[Objective]) -> int:
    """Training runs behind the trial's values: fewest where a run lacks an objective."""
    counts = [trial.seeds(o.metric) for o in objectives if not known_before_training(o.metric)]
    return min(counts, default=1 + len(trial.confirmations))


def _margin(
    student: Trial, baseline: Trial, objectives: Sequence[Objective], scatter: Mapping[str, float | None]
) -> float | None:
    """The smallest difference in standard errors over the objectives that have any."""
    margins = []
    for objective in objectives:
        ours, theirs = student.pooled(objective.metric), baseline.pooled(objective.metric)
        if ours is None or theirs is None:
            return None
        deviation = scatter[objective.metric]
        if deviation is None:
            error = math.hypot(ours.stderr or 0.0, theirs.stderr or 0.0)
        else:
            error = deviation * math.sqrt(sum(1 / trial.seeds(objective.metric) for trial in (student, baseline)))
        if error > 0:
            margins.append((objective.oriented(ours.value) - objective.oriented(theirs.value)) / error)
    return min(margins, default=None)
