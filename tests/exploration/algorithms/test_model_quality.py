from dataclasses import replace

import numpy as np
import pytest

from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.model_quality import LeaveOneOut, leave_one_out
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem

SYNTHETIC = SyntheticProblem()
PROBLEM = SearchProblem(OBJECTIVES, (), SYNTHETIC.baseline)


def trials(count=40):
    drawn = SYNTHETIC.space.sample(count, np.random.default_rng(0))
    return [SYNTHETIC.run(architecture, number) for number, architecture in enumerate(drawn)]


def test_a_smooth_problem_is_predicted_well_and_honestly():
    found = leave_one_out(SYNTHETIC.space, PROBLEM, trials())
    assert set(found) == {"mlm_accuracy", "latency_ms"}
    for quality in found.values():
        assert len(quality) == 40
        assert quality.r2 > 0.6
        assert quality.tau > 0.6
        assert quality.within_two > 0.85
    observed = [trial.measurements["latency_ms"].value for trial in trials()]
    np.testing.assert_allclose(found["latency_ms"].observed, observed)
    assert found["latency_ms"].logarithmic
    assert not found["mlm_accuracy"].logarithmic


def test_results_without_order_are_not_predicted():
    rng = np.random.default_rng(1)
    noise = [
        replace(trial, measurements={"mlm_accuracy": Measurement.of("mlm_accuracy", float(rng.normal(0.3, 0.02)))})
        for trial in trials(100)
    ]
    problem = replace(PROBLEM, objectives=[Objective("mlm_accuracy", "maximize")])
    quality = leave_one_out(SYNTHETIC.space, problem, noise)["mlm_accuracy"]
    assert quality.r2 < 0.2
    assert quality.within_two > 0.85


def test_metrics_without_a_model_are_left_out():
    limits = [Constraint.parse("num_parameters <= 26e6"), Constraint.parse("peak_memory_bytes <= 1e9")]
    problem = replace(PROBLEM, constraints=limits)
    assert set(leave_one_out(SYNTHETIC.space, problem, trials())) == {"mlm_accuracy", "latency_ms"}
    assert leave_one_out(SYNTHETIC.space, problem, trials(2)) == {}


def test_trainings_that_ended_early_are_not_among_the_observations():
    curved = [
        replace(trial, curve={0.5: {"mlm_accuracy": replace(m, value=m.value - 0.05)}})
        for trial in trials(12)
        for m in [trial.measurements["mlm_accuracy"]]
    ]
    latency = {"latency_ms": curved[0].measurements["latency_ms"]}
    stopped = Trial(12, SYNTHETIC.baseline, TrialState.STOPPED, "slower", latency, curve=curved[0].curve)
    found = leave_one_out(SYNTHETIC.space, PROBLEM, [*curved, stopped])
    assert len(found["mlm_accuracy"]) == 12
    assert len(found["latency_ms"]) == 13


def test_the_figures_are_those_of_the_definitions():
    quality = LeaveOneOut(
        "mlm_accuracy", np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 1.5, 3.5, 3.0]), np.array([0.2, 0.3, 0.3, 0.6])
    )
    assert quality.r2 == pytest.approx(1.0 - (0.25 + 0.25 + 0.25 + 1.0) / 5.0)
    assert quality.within_two == pytest.approx(0.75)
    assert quality.tau == pytest.approx(3 / np.sqrt(6 * 5))
    logarithmic = LeaveOneOut("latency_ms", np.exp([0.0, 1.0]), np.exp([0.1, 0.9]), np.exp([0.1, 0.9]) * 0.06, True)
    assert logarithmic.within_two == 1.0
    assert logarithmic.r2 == pytest.approx(1.0 - 0.02 / 0.5)


def test_equal_results_have_no_variance_to_predict():
    flat = LeaveOneOut("mlm_accuracy", np.full(4, 0.3), np.full(4, 0.3), np.full(4, 0.01))
    assert (flat.r2, flat.tau, flat.within_two) == (0.0, 0.0, 1.0)
