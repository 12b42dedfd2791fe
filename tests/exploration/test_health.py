"""The health of a search, from trials whose state is known."""

from dataclasses import replace

import numpy as np
import pytest

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.measurement import Constraint, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.health import hypervolume_history, search_health
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.exploration.space import DesignSpace
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem

SPACE = DesignSpace(
    SpaceSettings(
        hidden_size=[128, 192, 256],
        bottleneck_size=[64, 96],
        num_heads=[1, 2],
        intermediate_size=[256, 384],
        num_feedforward=[1, 2],
    ),
    StudentFamily(num_blocks=4),
)
ARCHITECTURES = list(SPACE.architectures())
LIMITS = [Constraint.parse("latency_ms <= 1.2x"), Constraint.parse("mlm_accuracy >= 0.1")]
PROBLEM = SearchProblem(OBJECTIVES, LIMITS, ARCHITECTURES[0])


def trial(number, accuracy=None, latency=None, state=TrialState.COMPLETE, error=None, **more):
    found = {}
    if accuracy is not None:
        found["mlm_accuracy"] = Measurement.of("mlm_accuracy", accuracy, stderr=error)
    if latency is not None:
        found["latency_ms"] = Measurement.of("latency_ms", latency, stderr=error)
    return Trial(number, ARCHITECTURES[number], state, measurements=found, **more)


def runs(*accuracies):
    return tuple({"mlm_accuracy": Measurement.of("mlm_accuracy", accuracy)} for accuracy in accuracies)


def health(*trials):
    return search_health(SPACE, PROBLEM, trials)


def test_nothing_has_happened():
    found = health()
    assert (found.trained, found.feasible_share, found.unmoved, found.untried) == (0, None, 0, len(ARCHITECTURES))
    assert [found.predictions, found.noise, found.failures, found.broken] == [[], [], [], {}]


def test_students_are_counted_and_the_baseline_is_not():
    found = health(
        trial(0, 0.2, 10.0),
        trial(1, 0.2, 9.0),
        trial(2, None, 11.0, TrialState.STOPPED),
        trial(3, None, 13.0, TrialState.INFEASIBLE),
        trial(4, 0.05, 13.0, TrialState.INFEASIBLE),
        trial(5, state=TrialState.PENDING),
        replace(trial(6, None, 9.0, TrialState.MEASURED), number=-1),
    )
    assert found.counts == {"complete": 1, "stopped": 1, "infeasible": 2, "pending": 1, "measured": 1}
    assert found.trained == 2
    assert found.feasible_share == 0.5
    assert found.broken == {"latency_ms <= 1.2x": 2, "mlm_accuracy >= 0.1": 1}
    # The probe may still be tried, the pending one is taken.
    assert found.untried == len(ARCHITECTURES) - 6


def test_size_limits_narrow_what_is_left():
    count = np.sort(SPACE.parameters(ARCHITECTURES))
    problem = replace(PROBLEM, constraints=[Constraint("num_parameters", "<=", float(count[9]))])
    allowed = int((count <= count[9]).sum())
    order = [ARCHITECTURES[index] for index in np.argsort(SPACE.parameters(ARCHITECTURES), kind="stable")]
    small, large = order[0], order[-1]
    outside = Architecture.parse("512_64_1_384_2")
    trials = [Trial(n, a, TrialState.FAILED, "x") for n, a in enumerate((outside, small, large))]
    assert search_health(SPACE, problem, trials).untried == allowed - 1


def test_failures_that_differ_in_numbers_are_one():
    reasons = ["block 2 diverged at step 31", "out of memory", "block 12 diverged at step 1,204"]
    failed = [trial(n + 1, state=TrialState.FAILED, reason=reason) for n, reason in enumerate(reasons)]
    first, second = health(trial(0, 0.2, 10.0), *failed).failures
    assert (first.text, first.count, first.example) == (reasons[0], 2, ARCHITECTURES[1])
    assert (second.text, second.count) == ("out of memory", 1)


def test_the_front_moves_when_a_trial_comes_onto_it():
    baseline, worse, better = trial(0, 0.2, 10.0), trial(1, 0.19, 11.0), trial(2, 0.18, 8.0)
    assert health(baseline, worse).unmoved == 1
    assert health(baseline, worse, better).unmoved == 0
    equal, stopped, excluded = trial(3, 0.18, 8.0), trial(4, None, 9.0, TrialState.STOPPED), trial(5, None, 99.0)
    excluded = replace(excluded, state=TrialState.INFEASIBLE)
    # An equal trial and a stopped one moved nothing; what was never trained had no chance to.
    assert health(baseline, worse, better, equal, stopped, excluded).unmoved == 2
    assert health(equal, stopped, better, baseline, worse).unmoved == 2, "in the order of the numbers"


def test_one_objective_has_a_front_of_one():
    problem = replace(PROBLEM, objectives=[Objective("latency_ms", "minimize")])
    trials = [trial(0, 0.2, 10.0), trial(1, 0.2, 9.0), trial(2, 0.3, 9.5)]
    assert search_health(SPACE, problem, trials).unmoved == 1


def test_hypervolume_by_hand():
    objectives = [Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")]
    first, failed = trial(0, 0.2, 10.0), trial(1, state=TrialState.FAILED)
    dominated, second = trial(2, 0.1, 11.0), trial(3, 0.3, 10.0)
    # From the floor 0.1 - 0.02 and 11 + 0.1: the first covers 0.12 x 1.1, with the last one 0.22 x 1.1.
    assert hypervolume_history([first, failed, dominated, second], objectives) == pytest.approx([6 / 11] * 3 + [1.0])
    assert hypervolume_history([failed, first], objectives)[0] is None
    assert hypervolume_history([failed], objectives) == []
    assert hypervolume_history([first], objectives[:1]) == []


def test_noise_is_the_standard_error_without_further_seeds():
    found = health(trial(0, 0.20, 10.0, error=0.003), trial(1, 0.22, 9.0, error=0.004), trial(2, 0.21, 9.0))
    noise = {one.metric: one for one in found.noise}["mlm_accuracy"]
    assert (noise.source, noise.observations) == ("standard errors", 2)
    assert noise.deviation == pytest.approx(np.sqrt((9e-6 + 16e-6) / 2))
    assert noise.span == pytest.approx(0.02)
    assert noise.resolution == pytest.approx(1.96 * np.sqrt(2) * noise.deviation)
    assert noise.share == pytest.approx(noise.deviation / 0.02)


def test_noise_is_the_scatter_of_the_seeds_where_there_are_enough():
    baseline = trial(0, 0.20, 10.0, error=0.001, confirmations=runs(0.22))
    found = health(baseline, trial(1, 0.30, 9.0, error=0.001))
    assert found.noise[0].source == "standard errors", "one difference says little"
    found = health(baseline, trial(1, 0.30, 9.0, error=0.001, confirmations=runs(0.30, 0.36)))
    noise = {one.metric: one for one in found.noise}
    # (0.0002 + 0.0024) with 1 + 2 degrees of freedom.
    assert noise["mlm_accuracy"].source == "seeds"
    assert noise["mlm_accuracy"].deviation == pytest.approx(np.sqrt(0.0026 / 3))
    assert noise["mlm_accuracy"].observations == 5
    assert noise["latency_ms"].source == "standard errors", "no seed changes a latency"


def test_noise_that_is_not_known_is_left_out():
    assert health(trial(0, 0.2, 10.0), trial(1, 0.3, 9.0)).noise == []


@pytest.fixture(scope="module")
def smooth():
    """Thirty noiseless trials and eight probes of a smooth problem, and its health."""
    problem = SyntheticProblem(seed=3, space=SPACE, accuracy_noise=0.0, latency_noise=0.0)
    trials = [problem.run(architecture, n) for n, architecture in enumerate(ARCHITECTURES[::2])]
    for probe in (problem.run(architecture, -1) for architecture in ARCHITECTURES[1:16:2]):
        measured = {name: item for name, item in probe.measurements.items() if name != "mlm_accuracy"}
        trials.append(replace(probe, state=TrialState.MEASURED, measurements=measured))
    search = SearchProblem(OBJECTIVES, [Constraint.parse("num_parameters <= 1e9")], problem.baseline)
    return trials, search_health(SPACE, search, trials)


def test_a_smooth_space_is_predicted_well(smooth):
    trials, found = smooth
    predictions = {one.metric: one for one in found.predictions}
    assert set(predictions) == {"mlm_accuracy", "latency_ms"}, "parameters are known exactly"
    latency = predictions["latency_ms"]
    assert len(latency.observed) == len(trials)
    assert len(predictions["mlm_accuracy"].observed) == len(trials) - 8
    assert latency.logarithmic
    assert latency.r2 is not None
    assert latency.r2 > 0.9
    assert latency.tau is not None
    assert latency.tau > 0.8
    assert set(latency.observed) == {trial.value("latency_ms") for trial in trials}


def test_the_bars_hold_what_counts_as_within_two_deviations(smooth):
    for one in smooth[1].predictions:
        rows = list(zip(one.observed, one.predicted, one.low, one.high, strict=True))
        assert all(low < predicted < high for _, predicted, low, high in rows)
        assert np.mean([low <= observed <= high for observed, _, low, high in rows]) == pytest.approx(one.within_two)


def test_models_that_cannot_be_fitted_do_not_cost_the_report(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("not positive definite")

    monkeypatch.setattr("flashdistill.exploration.health.leave_one_out", broken)
    found = health(trial(0, 0.2, 10.0), trial(1, 0.3, 9.0))
    assert found.predictions == []
    assert found.trained == 1
    assert "not positive definite" in caplog.text
