"""What a search algorithm is: one pure verb."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.constraints import known_without_measuring
from flashdistill.exploration.space import DesignSpace


@dataclass(frozen=True)
class SearchProblem:
    """What a search is for.

    Attributes:
        objectives: at least one.
        constraints: those known from the architecture alone are kept by every suggestion.
        baseline: the architecture to beat; relative bounds refer to it. It may lie outside the
            design space.
        goal: ``front`` maps the whole Pareto front, ``beat-baseline`` looks for architectures
            that dominate the baseline.
        prior: trials of another run, with another teacher, corpus or machine: their values are
            not comparable with this run's, but related to them. They do not count as tried.
    """

    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]
    baseline: Architecture
    goal: Literal["front", "beat-baseline"] = "front"
    prior: Sequence[Trial] = ()

    def size_range(self, space: DesignSpace) -> tuple[float, float]:
        """The fewest and the most parameters that the constraints which need no measurement allow."""
        fewest, most = 0.0, math.inf
        reference = float(space.parameters([self.baseline])[0])
        for constraint in known_without_measuring(self.constraints):
            limit = constraint.limit(reference)
            if constraint.op == "<=":
                most = min(most, limit)
            else:
                fewest = max(fewest, limit)
        return fewest, most

    def within_size_limits(self, space: DesignSpace, counts: np.ndarray) -> np.ndarray:
        """Which parameter counts, int [n], satisfy the constraints that need no measurement; bool [n]."""
        fewest, most = self.size_range(space)
        return (counts >= fewest) & (counts <= most)


class Algorithm(ABC):
    """Proposes architectures.

    A suggestion depends on the arguments alone: asking changes nothing, a resumed run gets the
    suggestions that the uninterrupted one would have got. `flashdistill.testing.
    algorithm_conformance` holds the contract as tests.
    """

    def __init__(self, problem: SearchProblem):
        self.problem = problem

    @abstractmethod
    def suggest(self, space: DesignSpace, trials: Sequence[Trial], count: int, seed: int) -> list[Architecture]:
        """Up to ``count`` architectures worth trying next, the most promising first.

        Never one that has a trial already, whatever its state, and never one that breaks a
        constraint known from the architecture alone. Fewer than ``count`` when the space has no
        more, finally none.

        Args:
            trials: all trials of the study, the pending ones too, and what was only measured
                (`TrialState.MEASURED`), which informs but may still be suggested.
            seed: the run's seed.
        """


def tried(trials: Iterable[Trial]) -> set[Architecture]:
    """The architectures that have a trial; those that were only measured have none."""
    return {trial.architecture for trial in trials if trial.state is not TrialState.MEASURED}


def untried(
    space: DesignSpace, problem: SearchProblem, trials: Iterable[Trial], candidates: Iterable[Architecture]
) -> list[Architecture]:
    """Those candidates that may be suggested, in the given order."""
    taken = tried(trials)
    fresh = [architecture for architecture in candidates if architecture not in taken]
    allowed = problem.within_size_limits(space, space.parameters(fresh))
    return [architecture for architecture, fits in zip(fresh, allowed, strict=True) if fits]


def untried_table(space: DesignSpace, problem: SearchProblem, trials: Iterable[Trial]) -> list[Architecture]:
    """All architectures of an enumerable space that may be suggested, in the table's order."""
    taken = tried(trials)
    allowed = problem.within_size_limits(space, space.table_parameters)
    return [
        architecture
        for architecture, fits in zip(space.table, allowed, strict=True)
        if fits and architecture not in taken
    ]
