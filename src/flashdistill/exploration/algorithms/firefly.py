"""The firefly algorithm, which the AutoDistill paper compares Bayesian optimisation with.

Yang, "Firefly algorithm, stochastic test functions and design optimisation", International
Journal of Bio-Inspired Computation 2(2), 2010; for several objectives Yang, "Multiobjective
firefly algorithm for continuous optimization", Engineering with Computers 29, 2013.

Shape legend: m objectives, d axes of the lattice.
"""

from __future__ import annotations

import numpy as np

from flashdistill.exploration.algorithms.population import Population
from flashdistill.exploration.algorithms.population_search import Moment, PopulationSearch

_ATTRACTION = 1.0
"""beta_0: at no distance a firefly goes all the way."""

_ABSORPTION = 1.0
"""gamma, of squared distances in the unit cube."""

_FIRST_STEP, _COOLING = 0.5, 0.95
"""alpha_0, the largest random step along an axis at first, and what is left of it after each round."""


class FireflySearch(PopulationSearch):
    """A swarm in the unit cube of the factors' ranks; each suggestion is one firefly's next position.

    The fireflies are the best trials so far by front and crowding distance, and take turns. The
    original moves a swarm whose fireflies keep their worse places too; here a firefly that has
    landed badly is replaced by the best that is known. So the swarm follows from the trials
    alone, and no evaluation is spent on a place that is known to be dark.

    A firefly moves towards each brighter one in turn, from the dimmest to the brightest
    (x_i += beta_0 exp(-gamma r^2) (x_j - x_i), Yang 2010), then takes a random step that
    shrinks from round to round. Brighter means: dominates (Yang 2013); what breaks a constraint,
    or is worse than a baseline to beat, is dimmer than all that does not, see `Population`. A
    firefly that none outshines starts from the brightest under random weights of the objectives
    instead, a new draw each time, which spreads the swarm along the front (Yang 2013).

    Positions that round to a tried architecture are drawn again: in a small space they are many.

    The constants are Yang's usual ones. On simulated spaces others near them were not clearly
    better, and steps that stay large were worse.
    """

    SIZE = 16

    def wish(self, moment: Moment, rng: np.random.Generator) -> np.ndarray:
        swarm = moment.population
        firefly = moment.step % len(swarm)
        position = swarm.positions[firefly].copy()
        brighter = np.flatnonzero(swarm.dominates[:, firefly])
        if not len(brighter):
            position = swarm.positions[_leader(swarm, rng)].copy()
        for other in brighter[::-1]:
            away = swarm.positions[other] - position
            position += _ATTRACTION * np.exp(-_ABSORPTION * (away @ away)) * away
        step = _FIRST_STEP * _COOLING ** (moment.step / self.SIZE)
        return np.clip(position + step * rng.uniform(-1.0, 1.0, len(position)), 0.0, 1.0)


def _leader(swarm: Population, rng: np.random.Generator) -> int:
    """The member that is best under random weights of the objectives, each scaled to the front's range."""
    front = swarm.values[swarm.fronts == 0]
    weights = rng.dirichlet(np.ones(front.shape[1]))
    if not np.isfinite(front).all():
        return int(rng.integers(len(front)))
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    return int(np.argmax((front - low) / np.where(span > 0, span, 1.0) @ weights))
