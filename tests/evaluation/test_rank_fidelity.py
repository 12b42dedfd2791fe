"""The audit's statistics on cases worked out by hand, and on rankings whose true order is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Objective
from flashdistill.core.rank_fidelity import AuditedStudent, Interval, ShorterFlash
from flashdistill.evaluation.rank_fidelity import (
    advise,
    agreement,
    bootstrap,
    corrected_tau,
    rank_audit,
    regret,
    regret_by_chance,
    reliability,
    shorter_flashes,
    tau_ceiling,
    tau_scatter,
)

ACCURACY = Objective("mlm_accuracy", "maximize")
LOSS = Objective("mlm_loss", "minimize")


def student(number: int, flash: float, regular: float, **others: object) -> AuditedStudent:
    return AuditedStudent(Architecture(32 + number, 16, 1, 64, 2), flash, regular, **others)  # type: ignore[arg-type]


def test_agreement_of_known_orders() -> None:
    assert agreement(np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 40, 30])) == pytest.approx(4 / 6)
    # Of six pairs one is tied in the first: 5 agree, and tau-b divides by the root of 5 times 6.
    assert agreement(np.array([1.0, 1, 3, 4]), np.array([1.0, 2, 3, 4])) == pytest.approx(5 / math.sqrt(30))
    assert agreement(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])) == 0.0


def test_regret_by_hand() -> None:
    flash, regular = np.array([3.0, 2.0, 1.0]), np.array([0.1, 0.5, 0.3])
    assert regret(flash, regular, 1) == pytest.approx(0.4)
    assert regret(flash, regular, 2) == 0.0
    # One of three at random: 0.5 minus the mean; two: the best is 0.3 once and 0.5 twice.
    assert regret_by_chance(regular, 1) == pytest.approx(0.5 - 0.3)
    assert regret_by_chance(regular, 2) == pytest.approx(0.5 - (0.3 + 0.5 + 0.5) / 3)
    assert regret_by_chance(regular, 3) == pytest.approx(0.0)


def test_attenuation_by_hand() -> None:
    assert reliability(np.array([0.0, 2.0]), 1.0) == pytest.approx(0.5)  # the variance is 2, of which 1 is noise
    assert reliability(np.array([0.0, 2.0]), 2.0) == 0.0
    # tau 0.5 is a correlation of sin(45°) = 0.7071; divided by 0.8 it is 0.8839, and asin of that 62.11°.
    assert corrected_tau(0.5, 0.8, 0.8) == pytest.approx(62.11 / 90, abs=1e-4)
    assert corrected_tau(0.9, 0.5, 0.5) == 1.0, "chance beyond 1 counts as 1"
    assert corrected_tau(0.5, 0.0, 1.0) is None
    assert corrected_tau(0.37, 1.0, 1.0) == pytest.approx(0.37)
    assert tau_ceiling(0.8, 0.8) == pytest.approx(53.13 / 90, abs=1e-4)
    assert tau_ceiling(0.0, 1.0) is None


def test_the_correction_recovers_the_true_order_of_noisy_scores() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(2, 1500)) @ np.diag(np.ones(1500))
    first, second = truth[0], 0.8 * truth[0] + 0.6 * truth[1]
    noisy = [values + 0.7 * random.normal(size=1500) for values in (first, second)]
    observed = agreement(*noisy)
    found = corrected_tau(observed, *(reliability(values, 0.7) for values in noisy))
    true = agreement(first, second)
    assert observed < true - 0.1
    assert found == pytest.approx(true, abs=0.04)


def test_the_bootstrap_covers_the_truth() -> None:
    """A mean of 40 normal values: nineteen intervals in twenty hold the true mean."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        values = random.normal(size=40)
        one = bootstrap(lambda rows, values=values: float(values[rows].mean()), 40, resamples=300)
        assert one.value == pytest.approx(values.mean())
        held += one.low <= 0 <= one.high
    assert 86 <= held <= 99


def test_the_scatter_of_tau_between_seeds() -> None:
    flash = np.linspace(0.1, 0.2, 12)
    assert tau_scatter(flash, flash, 0.0) == 0.0
    small, large = (tau_scatter(flash, flash, deviation, draws=300) for deviation in (0.002, 0.05))
    assert small < large
    random = np.random.default_rng(2)
    taus = [agreement(flash + 0.05 * random.normal(size=12), flash) for _ in range(300)]
    assert large == pytest.approx(np.std(taus), rel=0.15)


def share(at: float, change: float, low: float = -0.5, high: float = 0.5) -> ShorterFlash:
    return ShorterFlash(at, Interval(0.7 + change, 0.3, 0.9), Interval(change, low, high))


CERTAIN = Interval(0.7, 0.4, 0.9)


@pytest.mark.parametrize(
    ("tau", "shares", "scatter", "kind", "expected"),
    [
        (CERTAIN, [share(0.25, -0.3), share(0.5, -0.04), share(0.75, 0.01), share(1.0, 0.0)], 0.05, "shorter", 0.5),
        # A lucky quarter counts for nothing while the half is behind.
        (CERTAIN, [share(0.25, 0.1), share(0.5, -0.2), share(0.75, 0.0), share(1.0, 0.0)], 0.05, "shorter", 0.75),
        (CERTAIN, [share(0.25, -0.3), share(0.5, -0.2), share(0.75, -0.1), share(1.0, 0.0)], 0.05, "keep", None),
        (Interval(0.3, -0.1, 0.6), [share(0.5, 0.0), share(1.0, 0.0)], 0.05, "longer", None),
        (CERTAIN, [], 0.05, "unknown", None),
        # Without seeds the bootstrap's standard error is the margin: 0.392 / 3.92.
        (CERTAIN, [share(0.5, -0.09, -0.286, 0.106), share(1.0, 0.0, 0.0, 0.0)], None, "shorter", 0.5),
        (CERTAIN, [share(0.5, -0.11, -0.306, 0.086), share(1.0, 0.0, 0.0, 0.0)], None, "keep", None),
    ],
)
def test_advice(tau: Interval, shares: list[ShorterFlash], scatter: float | None, kind: str, expected: object) -> None:
    found = advise(tau, shares, scatter)
    assert (found.kind, found.share) == (kind, expected)
    if shares and tau is CERTAIN:
        assert found.margin_source == ("bootstrap" if scatter is None else "seeds")


def test_parts_of_flash() -> None:
    students = [
        student(0, 0.1, 0.3, on_the_way={0.25: 0.03, 0.5: 0.05}),
        student(1, 0.2, 0.4, on_the_way={0.25: 0.02, 0.5: 0.06, 0.75: 0.1}),
        student(2, 0.3, 0.5, on_the_way={0.25: 0.01, 0.5: 0.07}),
    ]
    found = shorter_flashes(students, ACCURACY)
    assert [(one.share, one.tau.value, one.change.value) for one in found] == [
        (0.25, -1.0, -2.0),
        (0.5, 1.0, 0.0),
        (1.0, 1.0, 0.0),
    ], "only shares at which all were scored"
    assert shorter_flashes([*students, student(3, 0.4, 0.6)], ACCURACY) == []


@pytest.mark.parametrize("objective", [ACCURACY, LOSS])
def test_the_whole_audit(objective: Objective) -> None:
    sign = 1 if objective is ACCURACY else -1
    values = [(0.10, 0.30), (0.12, 0.33), (0.15, 0.32), (0.20, 0.40)]
    students = [
        student(number, sign * flash, sign * regular, flash_seeds=[sign * (flash + 0.01)] if number < 2 else ())
        for number, (flash, regular) in enumerate(values)
    ]
    found = rank_audit(students, objective)
    assert [one.architecture.hidden_size for one in found.students] == [35, 33, 34, 32], "the best first"
    assert found.tau.value == pytest.approx(4 / 6)
    assert found.tau.low <= found.tau.value <= found.tau.high
    assert found.flash_noise is not None
    assert (found.flash_noise.deviation, found.flash_noise.degrees) == (pytest.approx(0.01 / math.sqrt(2)), 2)
    assert found.regular_noise is None
    assert found.corrected is None
    assert [(one.top, one.lost) for one in found.regrets] == [(1, 0.0), (3, 0.0)]
    assert found.advice.kind in ("unknown", "longer")


def test_two_students_are_no_order() -> None:
    with pytest.raises(ValueError, match="2 students"):
        rank_audit([student(0, 0.1, 0.2), student(1, 0.2, 0.3)], ACCURACY)
