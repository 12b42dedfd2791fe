"""Early stopping on a table's learning curves, by the rule of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.search_replay.problems import OBJECTIVES
from flashdistill.core.measurement import known_before_training
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.early_stopping import stop_reason

FULL = 1.0
"""Share of the training steps of a training that was not stopped."""


def ended_early(trial: Trial, history: Sequence[Trial]) -> tuple[Trial, float]:
    """What is left of a complete trial where the rule ends it, and the share of its steps that were spent.

    Args:
        trial: complete, with its whole curve.
        history: the trials before it, trial 0 the baseline.
    """
    before_training = {name: found for name, found in trial.measurements.items() if known_before_training(name)}
    for share in sorted(trial.curve):
        seen = {earlier: scores for earlier, scores in trial.curve.items() if earlier <= share}
        so_far = replace(trial, state=TrialState.PENDING, measurements=before_training, curve=seen)
        if reason := stop_reason(so_far, share, history, OBJECTIVES):
            return replace(so_far, state=TrialState.STOPPED, reason=reason), share
    return trial, FULL
