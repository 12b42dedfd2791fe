"""Random search without repeats: what every other algorithm has to beat."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.base import Algorithm, tried, untried
from flashdistill.exploration.algorithms.vacancies import Vacancies
from flashdistill.exploration.space import DesignSpace

_CHUNK = 256
_MAX_EMPTY_CHUNKS = 40


class RandomSearch(Algorithm):
    """Walks the space in one random order that depends on the seed alone.

    So the sequence of suggestions is the same whether they are asked for one at a time or in
    batches, and whatever the results are.

    In a space too large to enumerate, with size limits that hardly any architecture keeps, the
    walk meets none of those; then random positions are moved into the limits. These suggestions
    are not uniform: they lie near the limits.
    """

    def suggest(self, space: DesignSpace, trials: Sequence[Trial], count: int, seed: int) -> list[Architecture]:
        suggestions = self._walk(space, trials, count, seed)
        return suggestions if space.enumerable else self._filled(space, trials, suggestions, count, seed)

    def _walk(self, space: DesignSpace, trials: Sequence[Trial], count: int, seed: int) -> list[Architecture]:
        order = space.shuffled(generator("random search", seed))
        suggestions: list[Architecture] = []
        empty = 0
        while len(suggestions) < count and empty < _MAX_EMPTY_CHUNKS:
            chunk = list(itertools.islice(order, _CHUNK))
            if not chunk:
                break
            found = untried(space, self.problem, trials, chunk)
            empty = 0 if found else empty + 1
            suggestions.extend(found)
        return suggestions[:count]

    def _filled(
        self, space: DesignSpace, trials: Sequence[Trial], suggestions: Sequence[Architecture], count: int, seed: int
    ) -> list[Architecture]:
        """The suggestions and what a random position, moved into the size limits, adds to them."""
        filled = list(suggestions)
        begun = len(tried(trials))
        vacancies = Vacancies(space, self.problem, trials)
        for architecture in filled:
            vacancies.take(architecture)
        while len(filled) < count:
            position = generator("random search within limits", seed, begun + len(filled)).random(space.dimension)
            nearest = vacancies.nearest(position)
            if nearest is None:
                break
            vacancies.take(nearest)
            filled.append(nearest)
        return filled
