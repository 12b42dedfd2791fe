from dataclasses import replace

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.selection import select
from flashdistill.exploration.settings import SelectSettings

OBJECTIVES = [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]
BASELINE = Architecture(512, 128, 4, 512, 4)


def trial(number, accuracy, latency):
    measurements = {"mlm_accuracy": accuracy, "latency_ms": latency}
    return Trial(
        number,
        BASELINE if number == 0 else Architecture(128, 64, 1, 384, number),
        TrialState.COMPLETE,
        measurements={name: Measurement.of(name, value) for name, value in measurements.items()},
    )


def chosen(trials, top=3, constraints=()):
    limits = [Constraint.parse(text) for text in constraints]
    return [t.number for t in select(trials, OBJECTIVES, limits, SelectSettings(top=top), BASELINE)]


def test_those_that_dominate_the_baseline_go_first():
    trials = [trial(0, 0.30, 10), trial(1, 0.40, 30), trial(2, 0.20, 2), trial(3, 0.31, 9.5), trial(4, 0.32, 9.9)]
    assert set(chosen(trials, top=2)) == {3, 4}
    assert set(chosen(trials, top=3)) > {3, 4}
    assert set(chosen(trials, top=9)) == {1, 2, 3, 4}


def test_the_choice_spreads_along_the_front():
    """Three near twins in the middle, one point at each end: one twin and both ends."""
    trials = [trial(1, 0.30, 10), trial(2, 0.301, 10.1), trial(3, 0.302, 10.2), trial(4, 0.35, 20), trial(5, 0.2, 2)]
    picked = chosen(trials)
    assert len(set(picked) & {1, 2, 3}) == 1
    assert {4, 5} < set(picked)


def test_the_baseline_and_dominated_trials_are_not_chosen():
    trials = [trial(0, 0.30, 10), trial(1, 0.29, 11), trial(2, 0.25, 8)]
    assert chosen(trials) == [2]


def test_when_the_baseline_dominates_all_the_best_of_the_others_is_delivered():
    trials = [trial(0, 0.30, 10), trial(1, 0.29, 11), trial(2, 0.28, 12)]
    assert chosen(trials) == [1]


def test_an_infeasible_baseline_excludes_nobody():
    trials = [trial(0, 0.30, 10), trial(1, 0.29, 12)]
    assert chosen(trials, constraints=["latency_ms >= 11"]) == [1]


def test_constraints_are_kept_relative_ones_too():
    trials = [trial(0, 0.30, 10), trial(1, 0.40, 11), trial(2, 0.29, 7.9), trial(3, 0.1, 1)]
    assert chosen(trials, constraints=["latency_ms <= 0.8x", "mlm_accuracy >= 0.2"]) == [2]


def test_nothing_feasible_gives_nothing():
    failed = replace(trial(1, 0.9, 1), state=TrialState.FAILED)
    assert chosen([failed]) == []
    assert chosen([]) == []
    assert chosen([trial(0, 0.3, 10)]) == []


@pytest.mark.parametrize("top", [1, 2, 3])
def test_at_most_the_wanted_number(top):
    trials = [trial(number, 0.2 + 0.01 * number, 5.0 + number) for number in range(1, 8)]
    assert len(chosen(trials, top)) == top
