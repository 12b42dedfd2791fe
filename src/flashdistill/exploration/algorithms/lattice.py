"""The design space as a lattice in the unit cube, for algorithms that move points.

Every factor is an axis, its ascending choices evenly spaced from 0 to 1 as `DesignSpace.encode`
has them. Not every lattice point is an architecture: heads have to divide the bottleneck.

Shape legend: n architectures, d axes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.exploration.space import DesignSpace

_BISECTIONS = 20


class Lattice:
    """Translates between architectures and positions.

    Attributes:
        choices: of each axis, how many; int [d].
    """

    def __init__(self, space: DesignSpace):
        self._space = space
        self._fixed = {name: choices[0] for name, choices in space.factors.items() if len(choices) == 1}
        self._axes = {name: choices for name, choices in space.factors.items() if len(choices) > 1}
        self.choices = np.array([len(choices) for choices in self._axes.values()], dtype=int)

    def positions(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """[n, d] within the unit cube; an architecture outside the space is brought to its surface."""
        return np.clip(self._space.encode(architectures), 0.0, 1.0)

    def steps_squared(self, positions: np.ndarray, position: np.ndarray) -> np.ndarray:
        """The squared distance in steps of positions [n, d] from one position [d]; [n]."""
        return np.square((positions - position) * (self.choices - 1)).sum(axis=1)

    def nearest(self, position: np.ndarray) -> Architecture:
        """The architecture next to a position [d], whether it may be suggested or not."""
        rounded = self._at(np.rint(position * (self.choices - 1)).astype(int).tolist())
        return rounded if rounded in self._space else next(self.nearest_first(position))

    def nearest_first(self, position: np.ndarray) -> Iterator[Architecture]:
        """All architectures of the space in ascending Euclidean distance in steps from a position [d], lazily.

        Works on spaces of any size: what is held in memory grows with what was taken.
        """
        distances = [
            np.square(np.arange(count) - x * (count - 1)) for count, x in zip(self.choices, position, strict=True)
        ]
        ladders = [np.argsort(distance, kind="stable") for distance in distances]
        costs = [distance[ladder].tolist() for distance, ladder in zip(distances, ladders, strict=True)]
        start = (0,) * len(ladders)
        # Per entry: squared distance, steps down each axis's ladder. Only axes from the last one
        # that has left its top are stepped on, so every combination is reached in one way only.
        heap: list[tuple[float, tuple[int, ...]]] = [(sum(cost[0] for cost in costs), start)]
        while heap:
            _, steps = heapq.heappop(heap)
            architecture = self._at([ladder[step] for ladder, step in zip(ladders, steps, strict=True)])
            if architecture in self._space:
                yield architecture
            last = max((axis for axis, step in enumerate(steps) if step), default=0)
            for axis in range(last, len(steps)):
                if steps[axis] + 1 < len(costs[axis]):
                    further = (*steps[:axis], steps[axis] + 1, *steps[axis + 1 :])
                    total = sum(cost[step] for cost, step in zip(costs, further, strict=True))
                    heapq.heappush(heap, (total, further))

    def within(self, position: np.ndarray, fewest: float, most: float) -> np.ndarray:
        """The position [d], moved no farther than needed until the size of its architecture is allowed.

        All factors but the heads add parameters, and those leave them as they are: towards the
        smallest model the count only falls, towards the largest it only rises. Where a step of
        one factor leaps over the range, the others fill it, the factor with the most choices last.

        Args:
            fewest, most: parameters allowed. Between narrow limits this may fail; the position
                returned is then near them.
        """

        def small_enough(point: np.ndarray) -> bool:
            return self._parameters(point) <= most

        def large_enough(point: np.ndarray) -> bool:
            return self._parameters(point) >= fewest

        if not small_enough(position):
            position = _farthest(np.zeros(len(position)), position, small_enough)
        if large_enough(position):
            return position
        raised = _farthest(np.ones(len(position)), position, large_enough)
        if small_enough(raised):
            return raised
        for axis in np.argsort(self.choices, kind="stable"):
            end = position.copy()
            end[axis] = 1.0
            position = _farthest(position, end, small_enough)
            if large_enough(position):
                break
        return position

    def _parameters(self, position: np.ndarray) -> int:
        return int(self._space.parameters([self.nearest(position)])[0])

    def _at(self, ranks: Sequence[int]) -> Architecture:
        values = {name: choices[rank] for (name, choices), rank in zip(self._axes.items(), ranks, strict=True)}
        return Architecture(**self._fixed, **values)


def _farthest(start: np.ndarray, end: np.ndarray, allowed: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The point farthest from ``start`` on the way to ``end`` that is allowed, all before it being so too."""
    if allowed(end):
        return end
    inside, outside = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        if allowed(start + middle * (end - start)):
            inside = middle
        else:
            outside = middle
    return start + inside * (end - start)


def latin_hypercube(count: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Positions [count, dimension] of which each axis has one in every ``count``-th part.

    McKay, Beckman and Conover, "A comparison of three methods for selecting values of input
    variables in the analysis of output from a computer code", Technometrics 21(2), 1979.
    """
    strata = np.array([rng.permutation(count) for _ in range(dimension)]).reshape(dimension, count).T
    return (strata + rng.random((count, dimension))) / count
