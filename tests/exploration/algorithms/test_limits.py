from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.limits import Limits
from flashdistill.exploration.algorithms.surrogates import Candidates, Surrogates
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem

SYNTHETIC = SyntheticProblem()
SPACE = SYNTHETIC.space
TABLE = Candidates.of(SPACE, SPACE.table)
ACCURACY, LATENCY = OBJECTIVES


def trials(count=30):
    drawn = SPACE.sample(count, np.random.default_rng(0), exclude=[SYNTHETIC.baseline])
    return [SYNTHETIC.run(architecture, number) for number, architecture in enumerate([SYNTHETIC.baseline, *drawn])]


def limits(*constraints, baseline=SYNTHETIC.baseline, history=None, objectives=OBJECTIVES):
    history = trials() if history is None else history
    problem = SearchProblem(objectives, [Constraint.parse(c) for c in constraints], baseline, "beat-baseline")
    surrogates = Surrogates.fit(SPACE, history, ["mlm_accuracy", "latency_ms"])
    return Limits(problem, surrogates, history)


def test_beating_the_baseline_is_a_positive_difference_in_every_objective():
    held_to = limits()
    expected = np.zeros(len(TABLE))
    for objective in OBJECTIVES:
        mean, deviation = held_to.surrogates.predict_excess(objective.metric, TABLE, SYNTHETIC.baseline)
        expected += norm.logcdf(objective.oriented(1.0) * mean / deviation)
    np.testing.assert_allclose(held_to.log_beating(TABLE, OBJECTIVES), expected, rtol=1e-9, atol=1e-9)


def test_those_that_truly_beat_it_are_the_most_probable():
    scores = limits(history=trials(80)).log_beating(TABLE, OBJECTIVES)
    winning = np.array([architecture in SYNTHETIC.dominating for architecture in SPACE.table])
    assert scores[winning].mean() > np.quantile(scores, 0.95)


def test_a_lucky_baseline_is_believed_less_than_its_result():
    """Its neighbours say that 0.05 of its accuracy are luck."""
    history = trials(60)
    lucky = history[0].measurements["mlm_accuracy"]
    history[0] = replace(
        history[0],
        measurements={**history[0].measurements, "mlm_accuracy": replace(lucky, value=lucky.value + 0.05, stderr=0.05)},
    )
    better = [limits(history=found).log_beating(TABLE, [ACCURACY]) for found in (trials(60), history)]
    assert np.corrcoef(better[0], better[1])[0, 1] > 0.9


def test_a_bound_tighter_than_the_baseline_takes_its_place():
    latency = trials()[0].measurements["latency_ms"].value
    loose, tight = (limits(f"latency_ms <= {factor * latency}") for factor in (1.5, 0.6))
    np.testing.assert_allclose(loose.log_beating(TABLE, [LATENCY]), limits().log_beating(TABLE, [LATENCY]))
    mean, deviation = tight.surrogates.predict("latency_ms", TABLE)
    expected = norm.logcdf((np.log(0.6 * latency) - mean) / deviation)
    np.testing.assert_allclose(tight.log_beating(TABLE, [LATENCY]), expected, rtol=1e-9, atol=1e-12)


def test_a_relative_bound_refers_to_what_was_measured_of_the_baseline():
    latency = trials()[0].measurements["latency_ms"].value
    relative, absolute = limits("latency_ms <= 0.8x"), limits(f"latency_ms <= {0.8 * latency}")
    np.testing.assert_allclose(relative.log_feasibility(TABLE), absolute.log_feasibility(TABLE), rtol=1e-9)


def test_other_bounds_multiply_the_probability():
    bounded = limits("mlm_accuracy >= 0.35", objectives=[LATENCY])
    difference = bounded.log_beating(TABLE, [LATENCY]) - limits(objectives=[LATENCY]).log_beating(TABLE, [LATENCY])
    mean, deviation = bounded.surrogates.predict("mlm_accuracy", TABLE)
    np.testing.assert_allclose(difference, norm.logcdf((mean - 0.35) / deviation), rtol=1e-6, atol=1e-8)


def test_size_is_compared_exactly():
    objective = Objective("num_parameters", "minimize")
    scores = limits(objectives=[objective]).log_beating(TABLE, [objective])
    smaller = TABLE.parameters <= SPACE.parameters([SYNTHETIC.baseline])[0]
    np.testing.assert_array_equal(scores, np.where(smaller, 0.0, -np.inf))


def test_a_baseline_of_another_depth_counts_as_measured():
    outside = Architecture(512, 128, 4, 512, 4, 6)
    history = trials()
    history[0] = replace(history[0], architecture=outside)
    held_to = limits(baseline=outside, history=history)
    mean, deviation = held_to.surrogates.predict("mlm_accuracy", TABLE)
    expected = norm.logcdf((mean - history[0].measurements["mlm_accuracy"].value) / deviation)
    np.testing.assert_allclose(held_to.log_beating(TABLE, [ACCURACY]), expected, rtol=1e-9)


@pytest.mark.parametrize("state", [TrialState.PENDING, TrialState.FAILED])
def test_a_baseline_without_results_cannot_be_beaten(state):
    history = trials()
    history[0] = replace(history[0], state=state, measurements={})
    held_to = limits("latency_ms <= 0.8x", history=history)
    assert not held_to.can_be_beaten(OBJECTIVES)
    np.testing.assert_array_equal(held_to.log_feasibility(TABLE), np.zeros(len(TABLE)))


def test_a_metric_that_only_the_baseline_lacks():
    history = trials()
    latency = {"latency_ms": Measurement.of("latency_ms", 5.0)}
    history[0] = replace(history[0], measurements=latency)
    held_to = limits(history=history)
    assert held_to.can_be_beaten([LATENCY])
    assert not held_to.can_be_beaten(OBJECTIVES)
