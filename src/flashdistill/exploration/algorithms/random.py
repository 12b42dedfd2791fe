"""Random search without repeats: what every other algorithm has to beat."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.base import Algorithm, untried
from flashdistill.exploration.space import DesignSpace

_CHUNK = 256
_MAX_EMPTY_CHUNKS = 200


class RandomSearch(Algorithm):
    """Walks the space in one random order that depends on the seed alone.

    So the sequence of suggestions is the same whether they are asked for one at a time or in
    batches, and whatever the results are.
    """

    def suggest(self, space: DesignSpace, trials: Sequence[Trial], count: int, seed: int) -> list[Architecture]:
        order = space.shuffled(generator("random search", seed))
        suggestions: list[Architecture] = []
        empty = 0
        # In a huge space with tight size limits nearly nothing may fit: the walk has an end.
        while len(suggestions) < count and empty < _MAX_EMPTY_CHUNKS:
            chunk = list(itertools.islice(order, _CHUNK))
            if not chunk:
                break
            found = untried(space, self.problem, trials, chunk)
            empty = 0 if found else empty + 1
            suggestions.extend(found)
        return suggestions[:count]
