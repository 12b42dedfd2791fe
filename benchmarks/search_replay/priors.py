"""Trials of another run, for searches that start from one: related to the problem, or not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.search_replay.problems import ReplayProblem, smooth_field
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial

PRIOR_TRIALS = 60
"""Finished trials of the other run."""

_OTHER_SHAPE = 0.5
"""Deviation of what differs between the runs' accuracies, in deviations of the accuracy over the space."""

_OTHER_MACHINE = 0.15
"""Deviation of what differs between the machines' log latencies beside a constant factor."""


def related_prior(problem: ReplayProblem, seed: int) -> list[Trial]:
    """A run with another training budget on another machine, which tried architectures at random.

    Where the problem has learning curves, the other run's accuracies are those of half the
    training steps; otherwise the problem's own, on another scale, plus a smooth function of the
    factors. Latencies are 1.7 times as long, times a smooth function.
    """
    if problem.curve is not None:
        accuracy = problem.curve[:, len(problem.shares) // 2]
    else:
        wiggle = smooth_field(problem.space, "other run", problem.name)
        true = problem.truth[:, 0]
        accuracy = 0.05 + 0.7 * (true + _OTHER_SHAPE * true.std() * wiggle)
    machine = np.exp(_OTHER_MACHINE * smooth_field(problem.space, "other machine", problem.name))
    return _trials(problem, np.stack([accuracy, 1.7 * machine * problem.truth[:, 1]], axis=1), seed)


def unrelated_prior(problem: ReplayProblem, seed: int) -> list[Trial]:
    """The problem's own values, dealt out to the architectures anew: nothing can be learned from them."""
    order = generator("unrelated prior", problem.name, seed).permutation(problem.space.size)
    return _trials(problem, problem.truth[order], seed)


def _trials(problem: ReplayProblem, truth: np.ndarray, seed: int) -> list[Trial]:
    """The baseline and architectures drawn at random, observed with the problem's noise."""
    other = replace(problem, name=f"{problem.name}, another run", truth=truth, shares=(), curve=None)
    other = replace(other, seed_covariance=problem.seed_covariance[-1:, -1:])
    drawn = problem.space.sample(PRIOR_TRIALS - 1, generator("prior", problem.name, seed), exclude=[problem.baseline])
    return [other.run(architecture, number, seed) for number, architecture in enumerate([problem.baseline, *drawn])]
