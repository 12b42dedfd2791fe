"""Search problems whose truth is known: a table of every architecture, replayed with noise.

Shape legend: N architectures of the space, s checkpoints of a learning curve. Accuracies are
fractions, latencies ms. Points are *oriented* where larger is better in both columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.files import content_key
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.pareto import hypervolume, non_dominated
from flashdistill.exploration.space import DesignSpace
from flashdistill.testing.synthetic_space import SyntheticProblem, row_to_beat, rows_beating

OBJECTIVES = (Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize"))

MOST_WANTED = 3
"""Searches are timed until the third winner, as in the paper; a baseline leaves at least so many."""

SYNTHETIC = "synthetic-"


@dataclass(frozen=True, eq=False)
class ReplayProblem:
    """What every architecture of a space truly is, and what one training run shows of it.

    Attributes:
        truth: accuracy and latency without noise, in the order of the space's table; [N, 2].
        accuracy_stderr: what a trial states as the standard error of its accuracy, [N]: that of
            the evaluation, which knows nothing of other training seeds.
        latency_noise: relative standard deviation of one measurement, [N].
        shares: of the training steps done at the checkpoints, ascending in (0, 1); may be empty.
        curve: true accuracy at the checkpoints, [N, s].
        seed_covariance: of the accuracies at the checkpoints and at the end between training
            seeds, [s + 1, s + 1].
        winners: about how many architectures dominate `baseline`.
    """

    name: str
    space: DesignSpace
    truth: np.ndarray
    accuracy_stderr: np.ndarray
    latency_noise: np.ndarray
    seed_covariance: np.ndarray
    shares: tuple[float, ...] = ()
    curve: np.ndarray | None = None
    winners: int = 7

    def at_density(self, density: float) -> ReplayProblem:
        """The same table with a baseline that about this share of the space dominates."""
        return replace(self, winners=max(MOST_WANTED, round(density * self.space.size)))

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything that a replay depends on."""
        arrays = [self.truth, self.accuracy_stderr, self.latency_noise, self.seed_covariance]
        tables = [array.tolist() for array in (*arrays, *([] if self.curve is None else [self.curve]))]
        return content_key(self.name, self.shares, tables, str(self.baseline), list(map(str, self.space.table)))

    @cached_property
    def index(self) -> dict[Architecture, int]:
        """The row of every architecture."""
        return {architecture: row for row, architecture in enumerate(self.space.table)}

    @property
    def oriented_truth(self) -> np.ndarray:
        return self.truth * np.array([1.0, -1.0])

    @cached_property
    def baseline(self) -> Architecture:
        """Among the architectures that about `winners` others dominate, the one of middle latency."""
        return self.space.table[row_to_beat(self.oriented_truth, self.winners)]

    @cached_property
    def dominating(self) -> frozenset[Architecture]:
        """The architectures that truly dominate the baseline."""
        beating = rows_beating(self.oriented_truth, self.index[self.baseline])
        return frozenset(self.space.table[row] for row in beating)

    def random_expectation(self, count: int) -> float:
        """Mean number of draws without repeats until the ``count``-th winner: (n + 1) k / (W + 1).

        n is what can be drawn, all but the baseline: the negative hypergeometric distribution.
        """
        return self.space.size * count / (len(self.dominating) + 1)

    def run(self, architecture: Architecture, number: int, seed: int) -> Trial:
        """What training with ``seed`` and measuring shows, the same whenever it is asked for."""
        row = self.index[architecture]
        rng = generator("replayed observation", self.name, seed, architecture)
        shift = rng.multivariate_normal(np.zeros(len(self.shares) + 1), self.seed_covariance)
        slower = float(np.exp(self.latency_noise[row] * rng.standard_normal()))
        latency = float(self.truth[row, 1]) * slower
        error = float(self.accuracy_stderr[row])
        scores = [] if self.curve is None else [float(score) for score in self.curve[row] + shift[:-1]]
        return Trial(
            number,
            architecture,
            TrialState.COMPLETE,
            measurements=_by_name(
                Measurement.of("mlm_accuracy", float(self.truth[row, 0] + shift[-1]), stderr=error),
                Measurement.of("latency_ms", latency, stderr=latency * float(self.latency_noise[row])),
                Measurement.of("num_parameters", float(self.space.table_parameters[row])),
            ),
            curve={
                share: _by_name(Measurement.of("mlm_accuracy", score, stderr=error))
                for share, score in zip(self.shares, scores, strict=True)
            },
        )

    def hypervolume_shares(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """The true hypervolume after each architecture, as a share of the whole front's; [n].

        In accuracy and log latency, above a point that lies a tenth of the true front's range
        below its worst in both.
        """
        points = np.stack([self.truth[:, 0], -np.log(self.truth[:, 1])], axis=1)
        front = points[non_dominated(points)]
        low, high = front.min(axis=0), front.max(axis=0)
        reference = low - 0.1 * np.where(high > low, high - low, 1.0)
        volume, kept, shares = 0.0, np.empty((0, 2)), []
        for architecture in architectures:
            point = points[self.index[architecture]]
            if not np.any(np.all(kept >= point, axis=1)):
                kept = np.vstack([kept, point])
                kept = kept[non_dominated(kept)]
                volume = hypervolume(kept, reference)
            shares.append(volume)
        return np.array(shares) / hypervolume(front, reference)


def synthetic_problem(instance: int) -> ReplayProblem:
    """One of the package's simulated tables over the paper's 576 points."""
    made = SyntheticProblem(seed=instance)
    count = made.space.size
    return ReplayProblem(
        f"{SYNTHETIC}{instance}",
        made.space,
        made.truth,
        accuracy_stderr=np.full(count, made.accuracy_noise),
        latency_noise=np.full(count, made.latency_noise),
        seed_covariance=np.array([[made.accuracy_noise**2]]),
    )


def smooth_field(space: DesignSpace, *name: object) -> np.ndarray:
    """A smooth random function of the factors with mean 0 and deviation 1 over the space, [N]."""
    rng = generator("smooth field", *name)
    features = space.encode(space.table)
    total = np.zeros(len(features))
    for _ in range(4):
        total += np.sin(features @ rng.normal(0.0, 2.0, space.dimension) + rng.uniform(0.0, 2.0 * np.pi))
    deviation = total.std()
    return (total - total.mean()) / (deviation if deviation > 0 else 1.0)


def _by_name(*measurements: Measurement) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in measurements}
