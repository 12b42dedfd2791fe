"""What the searches with a population share: how they start, and how a wish becomes a suggestion."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.seeds import generator
from flashdistill.core.trial import Trial
from flashdistill.exploration.algorithms.base import Algorithm, tried
from flashdistill.exploration.algorithms.lattice import Lattice, latin_hypercube
from flashdistill.exploration.algorithms.population import Population, hopeless
from flashdistill.exploration.algorithms.vacancies import Vacancies
from flashdistill.exploration.space import DesignSpace

_MAX_REDRAWS = 20


@dataclass(frozen=True)
class Moment:
    """Where a search stands when it is asked for one suggestion.

    Attributes:
        step: how many architectures were suggested before, whatever became of them.
        vacancies: what may still be suggested.
    """

    step: int
    population: Population
    lattice: Lattice
    vacancies: Vacancies


class PopulationSearch(Algorithm):
    """Starts from a spread design, then moves on from the best that was found.

    The design is a Latin hypercube; if there are trials of another run, their best take half of
    the places. Every suggestion has a random stream of its own that depends on the seed and the
    number of suggestions before. So it makes no difference whether suggestions are asked for one
    at a time or together, as long as no results come in between.

    A wanted position that is taken already is drawn again; if that is of no help, the nearest
    architecture that is free is suggested. At the end that exhausts the space.
    """

    SIZE: int
    """Members of the population."""

    def suggest(self, space: DesignSpace, trials: Sequence[Trial], count: int, seed: int) -> list[Architecture]:
        if count <= 0:
            return []
        begun = len(tried(trials))
        lattice = Lattice(space)
        population = Population.of(space, self.problem, trials, self.SIZE)
        vacancies = Vacancies(space, self.problem, trials, hopeless(space, self.problem, trials))
        start = self._start(space, lattice, seed) if begun < self.SIZE else []
        chosen: list[Architecture] = []
        while len(chosen) < count:
            moment = Moment(begun + len(chosen), population, lattice, vacancies)
            if moment.step >= self.SIZE:
                start = []
            found = next((other for other in start if other in vacancies), None) or self._next(moment, seed)
            if found is None:
                break
            vacancies.take(found)
            chosen.append(found)
        return chosen

    @abstractmethod
    def wish(self, moment: Moment, rng: np.random.Generator) -> np.ndarray:
        """Where on the lattice the next suggestion should be, [d]; there may be no free architecture.

        The population has at least one member.
        """

    def _next(self, moment: Moment, seed: int) -> Architecture | None:
        rng = generator(type(self).__name__, seed, moment.step)
        position = np.empty(0)
        for _ in range(_MAX_REDRAWS):
            position = self.wish(moment, rng) if len(moment.population) else rng.random(len(moment.lattice.choices))
            found = moment.lattice.nearest(position)
            if found in moment.vacancies:
                return found
        # Among equally near ones chance decides, not the order of the factors.
        return moment.vacancies.nearest(np.clip(position + rng.normal(0.0, 1e-3, len(position)), 0.0, 1.0))

    def _start(self, space: DesignSpace, lattice: Lattice, seed: int) -> list[Architecture]:
        """The first suggestions of this seed."""
        problem = replace(self.problem, prior=())
        free = Vacancies(space, problem, ())
        start: list[Architecture] = []
        if self.problem.prior:
            best = Population.of(space, problem, self.problem.prior, self.SIZE // 2)
            start = [architecture for architecture in best.architectures if architecture in free]
        for architecture in start:
            free.take(architecture)
        rng = generator("starting population", seed)
        for position in latin_hypercube(self.SIZE - len(start), len(lattice.choices), rng):
            nearest = free.nearest(position)
            if nearest is None:
                break
            free.take(nearest)
            start.append(nearest)
        return start
