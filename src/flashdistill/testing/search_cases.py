"""Design spaces and made-up histories of a search, for tests of search algorithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import Algorithm, SearchProblem
from flashdistill.exploration.constraints import violations
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.exploration.space import DesignSpace
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem

STATES = (
    TrialState.COMPLETE,
    TrialState.INFEASIBLE,
    TrialState.FAILED,
    TrialState.COMPLETE,
    TrialState.PENDING,
    TrialState.STOPPED,
)
"""What becomes of the trials of a made-up history, in turn."""

MODES: Mapping[str, tuple[Sequence[Objective], Sequence[str]]] = {
    "accuracy": (OBJECTIVES[:1], ()),
    "latency": (OBJECTIVES[1:], ()),
    "accuracy under a latency limit": (OBJECTIVES[:1], ("latency_ms <= 0.9x",)),
    "latency under an accuracy limit": (OBJECTIVES[1:], ("mlm_accuracy >= 0.35",)),
}
"""Searches with one objective: objectives and constraints."""


def small_space(**choices: Any) -> DesignSpace:
    """24 architectures over four factors, unless ``choices`` say otherwise."""
    defaults: dict[str, Any] = {
        "hidden_size": [128, 256],
        "bottleneck_size": [64, 96],
        "num_heads": [4],
        "intermediate_size": [384, 512],
        "num_feedforward": [2, 4, 6],
    }
    return DesignSpace(SpaceSettings(**(defaults | choices)), StudentFamily(num_blocks=4))


def vast_space() -> DesignSpace:
    """About 1e12 architectures over six factors."""
    return small_space(
        hidden_size=list(range(128, 1128)),
        bottleneck_size=list(range(32, 1032)),
        num_heads=[1, 2, 4, 8],
        intermediate_size=list(range(128, 1128)),
        num_feedforward=list(range(1, 13)),
        num_blocks=list(range(1, 49)),
    )


def with_state(trial: Trial, state: TrialState) -> Trial:
    """The complete ``trial`` as it would be had it ended so."""
    if state is TrialState.COMPLETE:
        return trial
    before_training = {name: m for name, m in trial.measurements.items() if name != "mlm_accuracy"}
    if state is TrialState.INFEASIBLE:
        return replace(trial, state=state, reason="too slow", measurements=before_training)
    if state is TrialState.STOPPED:
        accuracy = trial.measurements["mlm_accuracy"]
        curve = {share: {accuracy.name: replace(accuracy, value=share * accuracy.value)} for share in (0.3, 0.6)}
        return replace(trial, state=state, reason="behind", measurements=before_training, curve=curve)
    if state is TrialState.MEASURED:
        return replace(trial, number=-1, state=state, measurements=before_training)
    return replace(trial, state=state, reason="diverged" if state is TrialState.FAILED else "", measurements={})


def made_up_trials(space: DesignSpace, architectures: Sequence[Architecture]) -> list[Trial]:
    """Complete trials whose results rise with every factor; for spaces of any size."""
    trials = []
    for number, (architecture, size) in enumerate(
        zip(architectures, space.encode(architectures).mean(axis=1), strict=True)
    ):
        results = (
            Measurement.of("mlm_accuracy", 0.3 + 0.1 * float(size), stderr=0.003),
            Measurement.of("latency_ms", 5.0 + 10.0 * float(size) ** 2, stderr=0.1),
        )
        trials.append(Trial(number, architecture, TrialState.COMPLETE, measurements={m.name: m for m in results}))
    return trials


def judged(trial: Trial, constraints: Sequence[Constraint], baseline: Trial) -> Trial:
    """The complete ``trial`` as these constraints leave it: what is too slow is not trained."""
    values = {name: measurement.value for name, measurement in trial.measurements.items()}
    limits = {name: measurement.value for name, measurement in baseline.measurements.items()}
    for known in ({"latency_ms": values["latency_ms"]}, values):
        if broken := violations(constraints, known, limits):
            kept = {name: trial.measurements[name] for name in known}
            return replace(trial, state=TrialState.INFEASIBLE, reason="; ".join(broken), measurements=kept)
    return trial


def trials_to_winners(open_search: Callable[[SearchProblem], Algorithm], winners: int, seed: int) -> int:
    """How many trials a search for students that beat the baseline needs, on the synthetic problem of the seed."""
    synthetic = SyntheticProblem(seed=seed)
    algorithm = open_search(SearchProblem(OBJECTIVES, (), synthetic.baseline, "beat-baseline"))
    trials = [synthetic.run(synthetic.baseline, 0)]
    while len(synthetic.dominating & {trial.architecture for trial in trials}) < winners:
        (suggested,) = algorithm.suggest(synthetic.space, trials, 1, seed)
        trials.append(synthetic.run(suggested, len(trials)))
    return len(trials) - 1
