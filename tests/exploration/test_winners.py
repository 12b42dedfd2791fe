"""Who beats the baseline in one run, and who in the mean of several."""

from __future__ import annotations

import math
import statistics

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.pareto import pareto_front
from flashdistill.exploration.seed_noise import seed_deviation
from flashdistill.exploration.selection import select
from flashdistill.exploration.settings import SelectSettings
from flashdistill.exploration.winners import observed_winners, verdicts

OBJECTIVES = [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]
BASELINE = Architecture(16, 8, 1, 16, 1)


def trial(number: int, latency: float, *accuracies: float, state: TrialState = TrialState.COMPLETE) -> Trial:
    """The first accuracy is the search's, the others are confirmations'."""
    first, *further = ({"mlm_accuracy": Measurement.of("mlm_accuracy", one, stderr=0.001)} for one in accuracies)
    latencies = {"latency_ms": Measurement.of("latency_ms", latency, stderr=0.1)}
    return Trial(
        number,
        Architecture(16, 8, 1, 16, number + 1),
        state,
        measurements=first | latencies,
        confirmations=further,
    )


def test_observed_and_confirmed_are_told_apart() -> None:
    trials = [
        trial(0, 10.0, 0.30, 0.31, 0.32),
        trial(1, 9.0, 0.35, 0.36, 0.34),  # stays ahead
        trial(2, 8.0, 0.33, 0.27, 0.28),  # was lucky
        trial(3, 7.0, 0.29, 0.33, 0.34),  # was unlucky
        trial(4, 9.5, 0.34),  # nobody has looked again
    ]
    assert [one.number for one in observed_winners(trials, OBJECTIVES, BASELINE)] == [1, 2, 4]
    found = {one.number: one for one in verdicts(trials, OBJECTIVES, BASELINE)}
    assert {number: (one.observed, one.confirmed) for number, one in found.items()} == {
        1: (True, True),
        2: (True, False),
        3: (False, True),
    }
    assert {(one.seeds, one.baseline_seeds) for one in found.values()} == {(3, 3)}
    deviation = math.sqrt(statistics.mean(statistics.variance([m.value for m in runs]) for runs in accuracies(trials)))
    assert seed_deviation(trials, "mlm_accuracy") == pytest.approx(deviation)
    # Closest in accuracy: 0.35 against 0.31, each the mean of three; the latency is 7 standard errors away.
    assert found[1].margin == pytest.approx(0.04 / (deviation * math.sqrt(2 / 3)))
    assert found[2].margin == pytest.approx((0.88 / 3 - 0.31) / (deviation * math.sqrt(2 / 3)))


def accuracies(trials: list[Trial]) -> list[list[Measurement]]:
    return [
        [run["mlm_accuracy"] for run in (one.measurements, *one.confirmations)] for one in trials if one.confirmations
    ]


def test_without_a_complete_baseline_nobody_wins() -> None:
    trials = [trial(0, 10.0, 0.3, state=TrialState.FAILED), trial(1, 9.0, 0.35, 0.36)]
    assert observed_winners(trials, OBJECTIVES, BASELINE) == []
    assert verdicts(trials, OBJECTIVES, BASELINE) == []


def test_one_training_each_tells_nothing_of_the_scatter() -> None:
    assert seed_deviation([trial(0, 10.0, 0.3), trial(1, 9.0, 0.35)], "mlm_accuracy") is None
    assert verdicts([trial(0, 10.0, 0.3), trial(1, 9.0, 0.35)], OBJECTIVES, BASELINE) == []


def test_front_and_selection_go_by_the_mean_over_seeds() -> None:
    lucky, steady = trial(1, 9.0, 0.35, 0.25, 0.24), trial(2, 9.5, 0.33)
    once = [trial(0, 10.0, 0.30), trial(1, 9.0, 0.35), steady]
    again = [trial(0, 10.0, 0.30), lucky, steady]
    settings = SelectSettings(top=1)
    assert [one.number for one in pareto_front(once, OBJECTIVES)] == [1]
    assert [one.number for one in pareto_front(again, OBJECTIVES)] == [1, 2]
    assert [one.number for one in select(once, OBJECTIVES, [], settings, BASELINE)] == [1]
    assert [one.number for one in select(again, OBJECTIVES, [], settings, BASELINE)] == [2]
