"""The trials so far as a population, for the searches that breed from one or move one.

Nothing is remembered between suggestions: the population is made anew from the trials, so a
resumed run has the population that the uninterrupted one would have had.

Shape legend: n members, m objectives, c requirements, d axes of the lattice. Objective values
are oriented: larger is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import KNOWN_WITHOUT_MEASURING, Constraint
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import SearchProblem, tried
from flashdistill.exploration.algorithms.dominance import constraint_domination, crowding_distances, sort_into_fronts
from flashdistill.exploration.algorithms.lattice import Lattice
from flashdistill.exploration.constraints import excess
from flashdistill.exploration.space import DesignSpace

_CERTAIN = 2.0
"""Standard errors beyond a limit from which on a mere measurement rules an architecture out."""


@dataclass(frozen=True)
class Population:
    """Members in descending order of their worth: by front, within a front by crowding distance.

    Attributes:
        architectures: n of them; a baseline outside the space may be among them.
        positions: on the lattice, [n, d].
        values: oriented, [n, m]; -inf throughout where not all objectives are known.
        dominates: entry [i, j] says whether i constraint-dominates j, bool [n, n].
        fronts: 0 for the members that none dominates, 1 for those that only they dominate, and
            so on; int [n].
        crowding: see `crowding_distances`, [n].
    """

    architectures: Sequence[Architecture]
    positions: np.ndarray
    values: np.ndarray
    dominates: np.ndarray
    fronts: np.ndarray
    crowding: np.ndarray

    def __len__(self) -> int:
        return len(self.architectures)

    @classmethod
    def of(cls, space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial], size: int) -> Population:
        """The best ``size`` of all that is known.

        A complete trial counts with the mean over its training seeds, a stopped one with what it
        had reached: less than it would have. What broke a limit, or was only measured, counts
        with what is known of it. Pending and failed trials are nothing to go by.
        """
        members = _describable(space, trials)
        known = [_known(space, trial) for trial in members]
        values = np.array([_oriented(problem, found) for found in known]).reshape(-1, len(problem.objectives))
        violations = _violations(known, requirements(problem), _reference(space, problem, trials))
        dominates = constraint_domination(values, violations)
        fronts = sort_into_fronts(dominates, size)
        crowding = crowding_distances(values, fronts)
        best = np.lexsort((-crowding, fronts))[:size]
        architectures = [members[index].architecture for index in best]
        return cls(
            architectures,
            Lattice(space).positions(architectures),
            values[best],
            dominates[np.ix_(best, best)],
            fronts[best],
            crowding[best],
        )


def requirements(problem: SearchProblem) -> list[Constraint]:
    """What makes an architecture feasible: the constraints, and being no worse than a baseline to beat."""
    if problem.goal != "beat-baseline":
        return list(problem.constraints)
    bars = [
        Constraint(objective.metric, "<=" if objective.goal == "minimize" else ">=", 1.0, relative=True)
        for objective in problem.objectives
    ]
    return [*problem.constraints, *bars]


def hopeless(space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial]) -> set[Architecture]:
    """What has only been measured, and cannot be feasible after what was measured."""
    reference = _reference(space, problem, trials)
    found = set()
    for trial in trials:
        if trial.state is not TrialState.MEASURED:
            continue
        for constraint in _decidable(requirements(problem), reference):
            measurement = trial.measurements.get(constraint.metric)
            if measurement is None or not measurement.finite:
                continue
            doubt = _CERTAIN * (measurement.stderr or 0.0)
            favourable = measurement.value - doubt if constraint.op == "<=" else measurement.value + doubt
            if not constraint.satisfied(favourable, reference.get(constraint.metric)):
                found.add(trial.architecture)
    return found


def _describable(space: DesignSpace, trials: Sequence[Trial]) -> list[Trial]:
    taken = tried(trials)
    return [
        trial
        for trial in trials
        if trial.state not in (TrialState.PENDING, TrialState.FAILED)
        and not (trial.state is TrialState.MEASURED and trial.architecture in taken)
        and space.comparable(trial.architecture)
    ]


def _known(space: DesignSpace, trial: Trial) -> dict[str, float]:
    """What is believed of a trial, by metric."""
    seeds = (trial.measurements, *trial.confirmations)
    known = {name: float(space.parameters([trial.architecture])[0]) for name in KNOWN_WITHOUT_MEASURING}
    for name in trial.measurements:
        values = [found[name].value for found in seeds if name in found and found[name].finite]
        if values:
            known[name] = math.fsum(values) / len(values)
    if trial.state is TrialState.STOPPED and trial.curve:
        last = trial.curve[max(trial.curve)]
        known = {name: measurement.value for name, measurement in last.items() if measurement.finite} | known
    return known


def _reference(space: DesignSpace, problem: SearchProblem, trials: Sequence[Trial]) -> dict[str, float]:
    """What is known of the baseline, for relative bounds."""
    found = (t for t in trials if t.architecture == problem.baseline and t.state is not TrialState.FAILED)
    # Of a probe and a trial of the baseline, the trial: probes come with no particular order.
    baseline = max(found, key=lambda trial: trial.state is not TrialState.MEASURED, default=None)
    return {} if baseline is None else _known(space, baseline)


def _oriented(problem: SearchProblem, known: Mapping[str, float]) -> list[float]:
    """Objective values; where one is unknown all are -inf: such a member is the last of its kind."""
    if any(objective.metric not in known for objective in problem.objectives):
        return [-math.inf] * len(problem.objectives)
    return [objective.oriented(known[objective.metric]) for objective in problem.objectives]


def _decidable(wanted: Sequence[Constraint], reference: Mapping[str, float]) -> list[Constraint]:
    return [constraint for constraint in wanted if not constraint.relative or constraint.metric in reference]


def _violations(
    known: Sequence[Mapping[str, float]], wanted: Sequence[Constraint], reference: Mapping[str, float]
) -> np.ndarray:
    """How far each member is from feasible, [n].

    The sum over the requirements, each relative to the largest violation that was seen of it, so
    that all weigh the same. Of a member that breaks what is known of it, the unknown counts like
    the average; one that breaks nothing so far counts as feasible.
    """
    total = np.zeros(len(known))
    unknown = np.zeros(len(known))
    for constraint in _decidable(wanted, reference):
        metric = constraint.metric
        beyond = np.array(
            [excess(constraint, k[metric], reference.get(metric)) if metric in k else np.nan for k in known]
        )
        missing = np.isnan(beyond)
        beyond = np.maximum(beyond, 0.0)
        if missing.all() or not np.nanmax(beyond) > 0:
            continue
        total += np.where(missing, 0.0, beyond / np.nanmax(beyond))
        unknown += np.where(missing, np.nanmean(beyond) / np.nanmax(beyond), 0.0)
    return np.where(total > 0, total + unknown, 0.0)
