"""Whether a student in the middle of its training can still come onto the Pareto front.

What random weights tell (latency, size) is final before training. So a student whose every such
objective is no better than a finished trial's must beat that trial in a trained one. If it lies
behind in all of those, at the same share of the same schedule on the same text, by more than
what could still turn round, the rest of its training would be spent on a dominated point.

What could turn round is learnt from the run itself: the scatter of what finished trials gained
from that share on. A wide student that starts slowly and catches up widens it, and with it the
margin. To this come both scores' standard errors and the scatter between seeds, where known.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from flashdistill.core.measurement import Constraint, Objective, known_before_training
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.constraints import violations
from flashdistill.exploration.seed_noise import seed_deviation

MARGIN_DEVIATIONS = 2.5
"""How many standard deviations behind a student must lie: one truly as good as its rival is stopped
by that rival at a share with probability 0.006. A student lost is dearer than one trained in vain."""

TRAINED_BEFORE_STOPPING = 5
"""Finished trials with a score at the same share, the baseline among them, before any is stopped:
the scatter of their gains must be known, and a front must be there."""


def stop_reason(
    candidate: Trial,
    share: float,
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
) -> str:
    """Why a student's training should end now; empty if it may go on.

    A student goes on where any objective of training has no score at this share: accuracy as
    served on the target is one that never has.

    Args:
        candidate: with everything measured before training, and with its curve at ``share``.
        share: of the pre-training distillation's steps done, in (0, 1).
        trials: of the study, trial 0 the baseline; only complete ones with a score at ``share`` count.
        constraints: a rival that breaks one, as the baseline may, dominates nobody.
    """
    trained = [objective for objective in objectives if not known_before_training(objective.metric)]
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE and share in trial.curve]
    scores = candidate.curve.get(share, {})
    if not trained or len(finished) < TRAINED_BEFORE_STOPPING or any(o.metric not in scores for o in trained):
        return ""
    before = [objective for objective in objectives if objective not in trained]
    turning = {objective.metric: _turning(finished, objective.metric, share) for objective in trained}
    lead, rival = max(
        (
            (_lead(rival, candidate, share, trained, turning), rival)
            for rival in _standing(finished, constraints)
            if rival.architecture != candidate.architecture and _no_worse(rival, candidate, before)
        ),
        key=lambda found: (found[0], -found[1].number),
        default=(0.0, None),
    )
    return "" if rival is None or lead <= 1 else _explained(rival, candidate, share, before, trained)


def _standing(finished: Sequence[Trial], constraints: Sequence[Constraint]) -> list[Trial]:
    """The finished trials that satisfy every constraint."""
    values = {trial.number: {name: one.value for name, one in trial.measurements.items()} for trial in finished}
    baseline = values.get(0, {})
    relative = [constraint for constraint in constraints if not constraint.relative or constraint.metric in baseline]
    return [trial for trial in finished if not violations(relative, values[trial.number], baseline)]


def _no_worse(rival: Trial, candidate: Trial, objectives: Sequence[Objective]) -> bool:
    for objective in objectives:
        theirs, ours = rival.value(objective.metric), candidate.value(objective.metric)
        if theirs is None or ours is None or objective.oriented(theirs) < objective.oriented(ours):
            return False
    return True


def _turning(finished: Sequence[Trial], metric: str, share: float) -> float:
    """The standard deviation, for one student, of what the rest of the training and another seed change."""
    gains = [
        final.value - trial.curve[share][metric].value
        for trial in finished
        if (final := trial.measurements.get(metric)) is not None and metric in trial.curve[share]
    ]
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    return math.hypot(spread, seed_deviation(finished, metric) or 0.0)


def _lead(
    rival: Trial, candidate: Trial, share: float, trained: Sequence[Objective], turning: Mapping[str, float]
) -> float:
    """By how many margins the rival is ahead, in the objective where it is least; above 1 it stops the candidate."""
    leads = []
    for objective in trained:
        theirs, ours = rival.curve[share].get(objective.metric), candidate.curve[share][objective.metric]
        if theirs is None:
            return 0.0
        gap = objective.oriented(theirs.value) - objective.oriented(ours.value)
        deviation = turning[objective.metric]
        margin = MARGIN_DEVIATIONS * math.hypot(theirs.stderr or 0.0, ours.stderr or 0.0, deviation, deviation)
        leads.append(gap / margin if margin > 0 else math.copysign(math.inf, gap) if gap else 0.0)
    return min(leads)


def _explained(
    rival: Trial, candidate: Trial, share: float, before: Sequence[Objective], trained: Sequence[Objective]
) -> str:
    scores = " and ".join(
        f"{o.metric} {candidate.curve[share][o.metric].value:.4g} against {rival.curve[share][o.metric].value:.4g}"
        for o in trained
    )
    equal = f", which is no worse in {' and '.join(o.metric for o in before)}" if before else ""
    return (
        f"beaten by trial {rival.number} ({rival.architecture}) after {share:.0%} of the pre-training steps: "
        f"{scores}{equal}"
    )
