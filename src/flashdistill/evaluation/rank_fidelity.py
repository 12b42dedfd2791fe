"""Does the short distillation rank students as the long one does? (The paper's Figure 6, as numbers.)

Everything here is a function of the two scores of each architecture, and of what further seeds
and looks on the way gave; nothing is trained. Arrays of scores are *oriented*: larger is better.

Shape legend: n architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from flashdistill.core.measurement import Objective
from flashdistill.core.rank_fidelity import (
    Advice,
    AuditedStudent,
    Interval,
    RankAudit,
    Regret,
    SeedNoise,
    ShorterFlash,
)
from flashdistill.core.scatter import pooled_deviation
from flashdistill.core.seeds import generator
from flashdistill.hardware.statistics import kendall_tau

Scores = npt.NDArray[np.float64]

RESAMPLES = 2000
TOPS = (1, 3, 5)
"""How many students a search takes into regular distillation: what each would lose is reported."""


def rank_audit(students: Sequence[AuditedStudent], objective: Objective) -> RankAudit:
    """The whole audit; the caller adds step counts and notes.

    Raises:
        ValueError: fewer than three students, of which no order is worth speaking.
    """
    if len(students) < 3:
        raise ValueError(f"{len(students)} students have no order worth speaking of")
    flash, regular = (_oriented(students, objective, name) for name in ("flash", "regular"))
    tau = bootstrap(lambda rows: agreement(flash[rows], regular[rows]), len(students))
    flash_noise, regular_noise = (_noise(students, name) for name in ("flash", "regular"))
    corrected = ceiling = None
    if flash_noise and regular_noise:
        reliabilities = (
            reliability(flash, flash_noise.deviation),
            reliability(regular, regular_noise.deviation),
        )
        corrected, ceiling = corrected_tau(tau.value, *reliabilities), tau_ceiling(*reliabilities)
    shares = shorter_flashes(students, objective)
    return RankAudit(
        metric=objective.metric,
        goal=objective.goal,
        students=sorted(students, key=lambda one: -objective.oriented(one.regular)),
        tau=tau,
        corrected=corrected,
        ceiling=ceiling,
        flash_noise=flash_noise,
        regular_noise=regular_noise,
        regrets=[
            Regret(top, regret(flash, regular, top), regret_by_chance(regular, top))
            for top in TOPS
            if top < len(students)
        ],
        shares=shares,
        advice=advise(tau, shares, None if flash_noise is None else tau_scatter(flash, regular, flash_noise.deviation)),
    )


def agreement(first: Scores, second: Scores) -> float:
    """Kendall's tau-b; 0 where one of the two has no order at all, so that nothing agrees with it."""
    tau = kendall_tau(first, second)
    return 0.0 if math.isnan(tau) else tau


def bootstrap(statistic: Callable[[npt.NDArray[np.int64]], float], count: int, resamples: int = RESAMPLES) -> Interval:
    """A statistic of rows with its 95 % percentile interval over resampled rows.

    The same rows are drawn for the same ``count``, so intervals of differences are paired.
    """
    random = generator("rank fidelity", "bootstrap", count)
    draws = random.integers(0, count, (resamples, count))
    values = np.array([statistic(rows) for rows in draws])
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(statistic(np.arange(count))), float(low), float(high))


def reliability(values: Scores, deviation: float) -> float:
    """The share of the variance between architectures that is not seed noise, in [0, 1]."""
    variance = float(np.var(values, ddof=1))
    return max(0.0, 1.0 - deviation**2 / variance) if variance > 0 else 0.0


def corrected_tau(tau: float, first: float, second: float) -> float | None:
    """Kendall's tau without the attenuation by noise in both rankings.

    For normal values tau = 2/π·arcsin(r) (Greiner 1909), and noise shrinks the correlation r by
    the root of the reliabilities' product (Spearman 1904). Both are undone; a correlation that
    chance pushed beyond 1 counts as 1.

    Args:
        first, second: reliabilities in [0, 1].

    Returns:
        None where a reliability is 0: nothing but noise was ranked.
    """
    shrinkage = math.sqrt(first * second)
    if shrinkage == 0:
        return None
    correlation = math.sin(math.pi * tau / 2) / shrinkage
    return 2 / math.pi * math.asin(min(1.0, max(-1.0, correlation)))


def tau_ceiling(first: float, second: float) -> float | None:
    """The tau that is expected if both rankings have the same true order; None where nothing but noise is there."""
    shrinkage = math.sqrt(first * second)
    return 2 / math.pi * math.asin(shrinkage) if shrinkage else None


def regret(flash: Scores, regular: Scores, top: int) -> float:
    """Best regular score of all minus the best of the ``top`` by flash; of equal flash scores the first are taken."""
    taken = np.argsort(-flash, kind="stable")[:top]
    return float(regular.max() - regular[taken].max())


def regret_by_chance(regular: Scores, top: int) -> float:
    """The expected `regret` of ``top`` architectures drawn at random without repeats.

    The i-th smallest of n is the best of those drawn in C(i-1, top-1) of C(n, top) cases.
    """
    ascending = np.sort(regular)
    ways = [math.comb(rank, top - 1) for rank in range(len(ascending))]
    expected = float(np.dot(ascending, ways)) / math.comb(len(ascending), top)
    return float(ascending[-1] - expected)


def tau_scatter(flash: Scores, regular: Scores, deviation: float, draws: int = RESAMPLES) -> float:
    """The standard deviation of tau between flash distillations that differ in their seeds alone."""
    random = generator("rank fidelity", "seeds", len(flash))
    noise = random.normal(scale=deviation, size=(draws, len(flash)))
    return float(np.std([agreement(flash + one, regular) for one in noise])) if deviation > 0 else 0.0


def shorter_flashes(students: Sequence[AuditedStudent], objective: Objective) -> list[ShorterFlash]:
    """Tau after each share of flash at which all students were scored, and after the whole."""
    common = set.intersection(*(set(one.on_the_way) for one in students))
    if not common:
        return []
    whole, regular = (_oriented(students, objective, name) for name in ("flash", "regular"))
    scores: Mapping[float, Scores] = {
        share: np.array([objective.oriented(one.on_the_way[share]) for one in students]) for share in sorted(common)
    } | {1.0: whole}

    def tau(values: Scores) -> Callable[[npt.NDArray[np.int64]], float]:
        return lambda rows: agreement(values[rows], regular[rows])

    def change(values: Scores) -> Callable[[npt.NDArray[np.int64]], float]:
        return lambda rows: tau(values)(rows) - tau(whole)(rows)

    count = len(students)
    return [
        ShorterFlash(share, bootstrap(tau(values), count), bootstrap(change(values), count))
        for share, values in scores.items()
    ]


def advise(tau: Interval, shares: Sequence[ShorterFlash], scatter: float | None) -> Advice:
    """How long flash should be, from how its parts rank.

    A ranking that cannot be told from chance asks for a longer flash. Otherwise the shortest
    part is recommended from which on tau stays within the margin of the whole flash's tau; where
    that is the whole, flash is kept as it is.

    Args:
        scatter: of tau between seeds, `tau_scatter`; None: the bootstrap's standard error of the
            change stands in for it.
    """
    if not tau.low > 0:
        return Advice("longer", margin=scatter)
    if not shares:
        return Advice("unknown", margin=scatter)
    shortest, margin = 1.0, scatter or 0.0
    for one in sorted(shares, key=lambda one: -one.share):
        allowed = scatter if scatter is not None else (one.change.high - one.change.low) / 3.92
        if one.change.value < -allowed:
            break
        shortest = one.share
        margin = max(margin, allowed)
    source = "bootstrap" if scatter is None else "seeds"
    if shortest == 1.0:
        return Advice("keep", margin=margin, margin_source=source)
    return Advice("shorter", shortest, margin, source)


def _oriented(students: Sequence[AuditedStudent], objective: Objective, name: str) -> Scores:
    return np.array([objective.oriented(getattr(one, name)) for one in students], dtype=np.float64)


def _noise(students: Sequence[AuditedStudent], name: str) -> SeedNoise | None:
    found = pooled_deviation([getattr(one, name), *getattr(one, f"{name}_seeds")] for one in students)
    return None if found is None else SeedNoise(*found)
