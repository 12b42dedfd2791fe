from dataclasses import replace

import numpy as np
import pytest

from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.population import Population, hopeless
from flashdistill.testing.search_cases import small_space, with_state
from flashdistill.testing.synthetic_space import OBJECTIVES

SPACE = small_space()


def trial(number, accuracy, latency, state=TrialState.COMPLETE, **changes):
    results = (
        Measurement.of("mlm_accuracy", accuracy, stderr=0.001),
        Measurement.of("latency_ms", latency, stderr=0.1),
    )
    complete = Trial(number, SPACE.table[number], TrialState.COMPLETE, measurements={m.name: m for m in results})
    return replace(with_state(complete, state), **changes)


def problem(*constraints, objectives=OBJECTIVES, **changes):
    return SearchProblem(objectives, [Constraint.parse(text) for text in constraints], SPACE.table[0], **changes)


def order(population):
    """The places of the members in the space's table, which are their trials' numbers."""
    return [SPACE.table.index(architecture) for architecture in population.architectures]


BASELINE = trial(0, 0.30, 10.0)


def test_fronts_first_then_the_least_crowded():
    trials = [BASELINE, trial(1, 0.35, 20.0), trial(2, 0.34, 18.0), trial(3, 0.32, 12.0), trial(4, 0.29, 11.0)]
    population = Population.of(SPACE, problem(), trials, 5)
    assert order(population)[:2] in ([0, 1], [1, 0])
    assert order(population)[2:] == [3, 2, 4]
    assert population.fronts.tolist() == [0, 0, 0, 0, 1]
    assert order(Population.of(SPACE, problem(), trials, 3))[2:] == [3]


def test_what_breaks_a_limit_comes_after_all_that_keeps_it_by_how_far():
    trials = [
        BASELINE,
        trial(1, 0.10, 11.0),
        trial(2, 0.39, 20.0, TrialState.INFEASIBLE),
        trial(3, 0.40, 15.0, TrialState.INFEASIBLE),
    ]
    population = Population.of(SPACE, problem("latency_ms <= 1.2x"), trials, 9)
    assert order(population) == [0, 1, 3, 2]
    assert population.fronts.tolist() == [0, 1, 2, 3]


def test_a_baseline_to_beat_is_a_limit_on_every_objective():
    trials = [BASELINE, trial(1, 0.40, 30.0), trial(2, 0.29, 9.0), trial(3, 0.31, 9.5)]
    assert order(Population.of(SPACE, problem(), trials, 9))[-1] == 0
    assert order(Population.of(SPACE, problem(goal="beat-baseline"), trials, 9))[:2] == [3, 0]


def test_pending_and_failed_trials_are_no_members_and_probes_give_way_to_trials():
    trials = [
        trial(2, 0.3, 9.0, TrialState.MEASURED),
        trial(3, 0.3, 9.0, TrialState.MEASURED),
        BASELINE,
        trial(1, 0.3, 9.0, TrialState.PENDING),
        trial(2, 0.3, 9.0, TrialState.FAILED),
    ]
    assert order(Population.of(SPACE, problem(), trials, 9)) == [0, 3]


def test_a_probe_that_breaks_nothing_is_better_than_what_breaks_a_limit():
    trials = [trial(1, 0.3, 90.0, TrialState.INFEASIBLE), trial(2, 0.3, 9.0, TrialState.MEASURED)]
    assert order(Population.of(SPACE, problem("latency_ms <= 20"), trials, 9)) == [2, 1]


def test_a_stopped_trial_counts_with_what_it_had_reached():
    """The curve's last point has 0.6 of the accuracy."""
    stopped = trial(1, 0.5, 10.0, TrialState.STOPPED)
    population = Population.of(SPACE, problem(objectives=OBJECTIVES[:1]), [BASELINE, stopped, trial(2, 0.29, 1.0)], 9)
    assert population.values[:, 0] == pytest.approx([0.30, 0.30, 0.29])
    without_curve = replace(stopped, curve={})
    population = Population.of(SPACE, problem(), [BASELINE, without_curve], 9)
    assert order(population) == [0, 1]
    assert np.isneginf(population.values[1]).all()


def test_training_seeds_are_averaged():
    again = [{"mlm_accuracy": Measurement.of("mlm_accuracy", value)} for value in (0.24, 0.24)]
    lucky = trial(1, 0.36, 10.0, confirmations=again)
    population = Population.of(SPACE, problem(), [BASELINE, lucky], 9)
    assert order(population) == [0, 1]
    assert population.values[1] == pytest.approx([0.28, -10.0])


def test_size_needs_no_measurement():
    objectives = [Objective("num_parameters", "minimize")]
    population = Population.of(SPACE, problem(objectives=objectives), [trial(9, 0.3, 9.0), BASELINE], 9)
    assert order(population) == [0, 9]
    assert population.values[:, 0] == pytest.approx([-SPACE.table_parameters[0], -SPACE.table_parameters[9]])


def test_nobody():
    assert len(Population.of(SPACE, problem(goal="beat-baseline"), [], 9)) == 0


def test_hopeless_is_only_what_was_measured_beyond_doubt():
    """10 ms is the bar; the standard error is 0.1 ms."""
    probes = [trial(n, 0.3, latency, TrialState.MEASURED) for n, latency in ((1, 10.5), (2, 10.1), (3, 9.0))]
    infeasible = trial(4, 0.3, 30.0, TrialState.INFEASIBLE)
    found = hopeless(SPACE, problem(goal="beat-baseline"), [*probes, BASELINE, infeasible])
    assert found == {SPACE.table[1]}
    assert hopeless(SPACE, problem(), [*probes, BASELINE]) == set()
