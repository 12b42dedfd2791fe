"""Sorting by constrained Pareto dominance, as in NSGA-II.

Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm:
NSGA-II", IEEE Transactions on Evolutionary Computation 6(2), 2002.

Shape legend: n points, m objectives. Values are oriented: larger is better.
"""

from __future__ import annotations

import numpy as np


def constraint_domination(values: np.ndarray, violations: np.ndarray) -> np.ndarray:
    """Which point constraint-dominates which (Deb et al. 2002, definition 1).

    A feasible point dominates every infeasible one, of two infeasible ones the smaller violation
    dominates, and feasible ones compare by Pareto dominance.

    Args:
        values: [n, m]; -inf is allowed.
        violations: how far a point is from feasible, 0 where it is; [n].

    Returns:
        bool [n, n], entry [i, j] for "i dominates j".
    """
    better = violations[:, None] < violations[None, :]
    comparable = (violations[:, None] <= 0) & (violations[None, :] <= 0)
    no_worse = (values[:, None, :] >= values[None, :, :]).all(axis=-1)
    return better | (comparable & no_worse & ~no_worse.T)


def sort_into_fronts(dominates: np.ndarray, enough: int | None = None) -> np.ndarray:
    """Fast non-dominated sorting (Deb et al. 2002, section III-A).

    Args:
        dominates: bool [n, n], transitive and without cycles.
        enough: stop once the fronts found hold as many points.

    Returns:
        The front of each point, from 0; those behind where it stopped share the next; int [n].
    """
    dominators = dominates.sum(axis=0)
    fronts = np.full(len(dominates), -1)
    front = sorted_points = 0
    while sorted_points < min(len(dominates), len(dominates) if enough is None else enough):
        members = (dominators == 0) & (fronts < 0)
        fronts[members] = front
        dominators = dominators - dominates[members].sum(axis=0)
        front, sorted_points = front + 1, sorted_points + int(members.sum())
    fronts[fronts < 0] = front
    return fronts


def crowding_distances(values: np.ndarray, fronts: np.ndarray) -> np.ndarray:
    """How far apart the neighbours of each point on its front are (Deb et al. 2002, section III-B).

    The sum over the objectives of the neighbours' distance relative to the range of the front;
    inf at the ends of the front. Points without values have no distance, 0.

    Args:
        values: [n, m]; -inf is allowed.
        fronts: the front of each point, int [n].
    """
    distances = np.zeros(len(values))
    for front in np.unique(fronts):
        members = np.flatnonzero((fronts == front) & np.isfinite(values).all(axis=1))
        for column in values[members].T if len(members) else ():
            order = np.argsort(column, kind="stable")
            ordered, places = column[order], members[order]
            span = ordered[-1] - ordered[0]
            distances[places[[0, -1]]] = np.inf
            if span > 0:
                distances[places[1:-1]] += (ordered[2:] - ordered[:-2]) / span
    return distances
