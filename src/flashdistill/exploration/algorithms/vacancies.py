"""What may still be suggested, and the nearest of it to a wanted position.

Shape legend: d axes of the lattice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.base import SearchProblem, tried, untried_table
from flashdistill.exploration.algorithms.lattice import Lattice, latin_hypercube
from flashdistill.exploration.space import DesignSpace

_HOPELESS = 1e12
"""More than the squared distance of any two points of a lattice that can be enumerated."""

# In a space that cannot be enumerated, 1600 architectures around a position are looked at.
_CHUNK, _MAX_CHUNKS = 32, 50
_ELSEWHERE = 8


class Vacancies:
    """The architectures that may be suggested; what is taken is gone.

    Those named as hopeless come last. In a space too large to enumerate, a position is moved into
    the size limits first, and only its surroundings are searched, then those of a few positions
    spread over the space: where nothing is free there either, the space counts as exhausted.

    Args:
        hopeless: architectures that are known to be no use, though nobody has tried them.
    """

    def __init__(
        self, space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial], hopeless: Iterable[Architecture] = ()
    ):
        self._space, self._lattice = space, Lattice(space)
        self._fewest, self._most = problem.size_range(space)
        self._taken = tried(trials)
        self._hopeless = set(hopeless)
        self._elsewhere = latin_hypercube(_ELSEWHERE, space.dimension, generator("elsewhere"))
        # Of an enumerable space: what was free at first, where it is, and how little it is wanted.
        self._table = untried_table(space, problem, trials) if space.enumerable else []
        self._positions = self._lattice.positions(self._table)
        self._reluctance = np.array([_HOPELESS * (found in self._hopeless) for found in self._table])
        self._row = {architecture: row for row, architecture in enumerate(self._table)}

    def __contains__(self, architecture: Architecture) -> bool:
        """Whether it may be suggested and is not hopeless."""
        return (
            architecture in self._space
            and architecture not in self._taken
            and architecture not in self._hopeless
            and bool(self._fits([architecture])[0])
        )

    def take(self, architecture: Architecture) -> None:
        """From now on it may not be suggested."""
        self._taken.add(architecture)
        if architecture in self._row:
            self._reluctance[self._row[architecture]] = np.inf

    def nearest(self, position: np.ndarray) -> Architecture | None:
        """The one nearest to a position [d] of the lattice; None if there is none."""
        if not self._space.enumerable:
            return next(filter(None, map(self._around, (position, *self._elsewhere))), None)
        distance = self._lattice.steps_squared(self._positions, position) + self._reluctance
        row = int(np.argmin(distance)) if len(distance) else None
        return None if row is None or np.isinf(distance[row]) else self._table[row]

    def _around(self, position: np.ndarray) -> Architecture | None:
        order = self._lattice.nearest_first(self._lattice.within(position, self._fewest, self._most))
        hopeless = None
        for _ in range(_MAX_CHUNKS):
            near = list(itertools.islice(order, _CHUNK))
            for architecture, fits in zip(near, self._fits(near), strict=True):
                if not fits or architecture in self._taken:
                    continue
                if architecture not in self._hopeless:
                    return architecture
                hopeless = hopeless or architecture
        return hopeless

    def _fits(self, architectures: Sequence[Architecture]) -> np.ndarray:
        counts = self._space.parameters(architectures)
        return (counts >= self._fewest) & (counts <= self._most)
