"""A simulated search problem whose truth is known: for tests and benchmarks of search algorithms.

Nothing is trained: accuracy and latency come from smooth formulas with noise of the size that
real distillations and measurements have. What an algorithm finds here says how well it searches,
not which architectures are good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.pareto import hypervolume, non_dominated
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.exploration.space import DesignSpace

OBJECTIVES = (Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize"))


def row_to_beat(points: np.ndarray, winners: int) -> int:
    """The row that about ``winners`` others dominate; of several the one of middle latency.

    Args:
        points: accuracy and negative latency, so that larger is better in both; [n, 2].
    """
    dominators = np.array([np.all(points >= point, axis=1).sum() - 1 for point in points])
    miss = np.abs(dominators - winners)
    candidates = np.flatnonzero(miss == miss.min())
    fastest_first = candidates[np.argsort(-points[candidates, 1], kind="stable")]
    return int(fastest_first[len(fastest_first) // 2])


def rows_beating(points: np.ndarray, row: int) -> np.ndarray:
    """The rows of oriented ``points`` [n, m] that dominate the given one, ascending."""
    bar = points[row]
    return np.flatnonzero(np.all(points >= bar, axis=1) & np.any(points > bar, axis=1))


@dataclass(frozen=True)
class SyntheticProblem:
    """A table of true accuracy and latency over a design space, the paper's 576 points by default.

    Attributes:
        seed: each seed is another instance: other weights of the factors, other interactions.
        space: an enumerable design space.
        winners: about how many architectures dominate `baseline`.
        accuracy_noise: standard deviation of an observed accuracy (a fraction: 0.003 is 0.3 points).
        latency_noise: relative standard deviation of an observed latency.
        roughness: how strongly and how quickly the interactions of factors vary; at 1 they are smooth.
    """

    seed: int = 0
    space: DesignSpace = field(default_factory=lambda: DesignSpace(SpaceSettings(), StudentFamily()))
    winners: int = 7
    accuracy_noise: float = 0.003
    latency_noise: float = 0.02
    roughness: float = 1.0

    @cached_property
    def truth(self) -> np.ndarray:
        """Accuracy (fraction) and latency (ms) without noise, in the order of the space's table; [size, 2]."""
        return np.stack([self._accuracy(), self._latency()], axis=1)

    def _accuracy(self) -> np.ndarray:
        """Diminishing returns in every factor, each with its own weight, and smooth interactions."""
        rng = generator("synthetic accuracy", self.seed)
        features = self.space.encode(self.space.table)
        weights = rng.uniform(0.2, 1.0, self.space.dimension)
        # Some factors are best in the middle, as the number of heads may be.
        peaks = rng.uniform(0.6, 1.4, self.space.dimension)
        quality = (weights * (1.0 - np.square(features - peaks))).sum(axis=1)
        for _ in range(4):
            direction = rng.normal(0.0, 2.0 * self.roughness, self.space.dimension)
            quality += 0.15 * self.roughness * np.sin(features @ direction + rng.uniform(0.0, 2.0 * np.pi))
        spread = np.ptp(quality)
        return 0.30 + 0.10 * (quality - quality.min()) / (spread if spread > 0 else 1.0)

    def _latency(self) -> np.ndarray:
        """Multiply-adds of a block, an overhead per operator, and a machine's smooth preferences; ms."""
        rng = generator("synthetic latency", self.seed)
        features = self.space.encode(self.space.table)
        direction = rng.normal(0.0, 2.0 * self.roughness, self.space.dimension)
        preference = 0.06 * self.roughness * np.sin(features @ direction)
        latency = []
        for architecture in self.space.table:
            h, b, i = architecture.hidden_size, architecture.bottleneck_size, architecture.intermediate_size
            operations = 5 * h * b + 3 * b * b + 2 * architecture.num_feedforward * b * i
            overhead = 20_000 * (1 + architecture.num_feedforward) + 10_000 * architecture.num_heads
            latency.append(self.space.family.depth(architecture) * (operations + overhead) * 1e-6)
        return np.array(latency) * np.exp(preference)

    @property
    def oriented_truth(self) -> np.ndarray:
        """The truth with larger better in both columns; [size, 2]."""
        return self.truth * np.array([1.0, -1.0])

    @cached_property
    def baseline(self) -> Architecture:
        """Among the architectures that about `winners` others dominate, the one of middle latency."""
        return self.space.table[row_to_beat(self.oriented_truth, self.winners)]

    @cached_property
    def dominating(self) -> frozenset[Architecture]:
        """The architectures that truly dominate the baseline."""
        beating = rows_beating(self.oriented_truth, self.space.table.index(self.baseline))
        return frozenset(self.space.table[row] for row in beating)

    @cached_property
    def front(self) -> frozenset[Architecture]:
        """The true Pareto front."""
        return frozenset(self.space.table[index] for index in non_dominated(self.oriented_truth))

    def front_share(self, architectures: Sequence[Architecture]) -> float:
        """The true hypervolume of these architectures as a share of the whole front's, in log latency."""
        points = np.stack([self.truth[:, 0], -np.log(self.truth[:, 1])], axis=1)
        tried = points[[self.space.table.index(architecture) for architecture in architectures]]
        reference = points.min(axis=0).tolist()
        return hypervolume(tried, reference) / hypervolume(points, reference)

    def run(self, architecture: Architecture, number: int) -> Trial:
        """A complete trial with noisy results, the same on every call for the same number."""
        accuracy, latency = self.truth[self.space.table.index(architecture)]
        rng = generator("synthetic noise", self.seed, number, architecture)
        accuracy += self.accuracy_noise * rng.standard_normal()
        latency *= np.exp(self.latency_noise * rng.standard_normal())
        measurements: Sequence[Measurement] = (
            Measurement.of("mlm_accuracy", float(accuracy), stderr=self.accuracy_noise or None),
            Measurement.of("latency_ms", float(latency), stderr=float(latency) * self.latency_noise or None),
            Measurement.of("num_parameters", float(self.space.parameters([architecture])[0])),
        )
        return Trial(number, architecture, TrialState.COMPLETE, measurements={m.name: m for m in measurements})
