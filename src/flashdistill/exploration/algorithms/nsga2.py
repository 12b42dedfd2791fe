"""NSGA-II: a genetic algorithm that breeds from the best fronts.

Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm:
NSGA-II", IEEE Transactions on Evolutionary Computation 6(2), 2002; the sorting is in `dominance`.

Shape legend: d axes of the lattice.
"""

from __future__ import annotations

import numpy as np

from flashdistill.exploration.algorithms.population import Population
from flashdistill.exploration.algorithms.population_search import Moment, PopulationSearch

_CROSSOVER = 0.9
_SINGLE_STEP = 0.6
"""The share of mutations that go to the next choice; of the others as many go one further, and so on."""


class Nsga2Search(PopulationSearch):
    """One child per suggestion: steady-state NSGA-II on the factors' ordered choices.

    The population consists of the best trials by front and crowding distance among *all* that
    there are, so it is as elitist as the generational form and can be made anew from the trials.
    It takes in a result as soon as it comes, which suits workers that finish at different times
    (Durillo, Nebro, Luna and Alba, "On the effect of the steady-state selection scheme in
    multi-objective genetic algorithms", EMO 2009).

    Factors are recombined one by one (uniform crossover): they have no order in which
    neighbours belong together. Mutation steps along a factor's choices, mostly by one: choices
    are sizes, so near ones give similar models. Constraints, and being no worse than a baseline
    to beat, count by constrained dominance; see `Population`.
    """

    SIZE = 16

    def wish(self, moment: Moment, rng: np.random.Generator) -> np.ndarray:
        positions = moment.population.positions
        child = positions[_tournament(moment.population, rng)].copy()
        mate = positions[_tournament(moment.population, rng)]
        if rng.random() < _CROSSOVER:
            inherited = rng.random(len(child)) < 0.5
            child[inherited] = mate[inherited]
        return _mutated(child, moment.lattice.choices, rng)


def _tournament(population: Population, rng: np.random.Generator) -> int:
    """The better of two random members: by front, then by crowding distance, which is their order."""
    return int(rng.integers(len(population), size=2).min())


def _mutated(position: np.ndarray, choices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The position [d] after every axis has taken a step with probability 1/d."""
    axes = len(choices)
    moves = rng.random(axes) < 1.0 / max(axes, 1)
    steps = rng.geometric(_SINGLE_STEP, axes) * rng.choice([-1, 1], axes)
    return np.clip(position + moves * steps / (choices - 1), 0.0, 1.0)
