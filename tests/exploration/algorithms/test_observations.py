import math
from dataclasses import replace

import numpy as np
import pytest

from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.observations import as_arrays, observe
from flashdistill.testing.algorithm_conformance import small_space

SPACE = small_space()


def accuracy(value, stderr=0.002):
    return {"mlm_accuracy": Measurement.of("mlm_accuracy", value, stderr=stderr)}


def trial(number, state=TrialState.COMPLETE, measurements=None, **fields):
    return Trial(number, SPACE.table[number], state, measurements=measurements or {}, **fields)


def test_a_latency_counts_as_its_logarithm_with_its_relative_error():
    measured = {"latency_ms": Measurement.of("latency_ms", 20.0, stderr=0.5)}
    (found,) = observe(SPACE, [trial(0, measurements=measured)], "latency_ms")
    assert found.value == pytest.approx(math.log(20.0))
    assert found.variance == pytest.approx((0.5 / 20.0) ** 2)


def test_confirmations_count_as_one_mean_with_a_smaller_error():
    confirmed = trial(0, measurements=accuracy(0.30), confirmations=[accuracy(0.33), accuracy(0.36), {}])
    (found,) = observe(SPACE, [confirmed], "mlm_accuracy")
    assert found.value == pytest.approx(0.33)
    assert found.variance == pytest.approx(0.002**2 / 3)
    assert found.repeats == 3
    assert as_arrays(SPACE, [found]).repeats.tolist() == [3.0]


def test_a_trial_takes_the_place_of_its_probe():
    latencies = [{"latency_ms": Measurement.of("latency_ms", value)} for value in (10.0, 20.0, 30.0)]
    probes = [replace(trial(n, TrialState.MEASURED, latencies[n]), number=-1) for n in (0, 1)]
    trials = [
        replace(trial(5, measurements=latencies[2]), number=0),
        replace(trial(1, TrialState.PENDING), number=1),
        replace(trial(0, TrialState.COMPLETE, latencies[2]), number=2),
    ]
    found = observe(SPACE, [*trials, *probes], "latency_ms")
    assert [one.architecture for one in found] == [SPACE.table[0], SPACE.table[1], SPACE.table[5]]
    np.testing.assert_allclose(np.exp([one.value for one in found]), [30.0, 20.0, 30.0])


def test_infeasible_trials_inform_and_failed_ones_do_not():
    measured = {"latency_ms": Measurement.of("latency_ms", 10.0)}
    states = (TrialState.INFEASIBLE, TrialState.STOPPED, TrialState.FAILED, TrialState.COMPLETE)
    found = observe(SPACE, [trial(n, state, measured) for n, state in enumerate(states)], "latency_ms")
    assert [one.architecture for one in found] == [SPACE.table[0], SPACE.table[1], SPACE.table[3]]


GAINS = (0.04, 0.05, 0.09)


def finished():
    return [
        trial(n, measurements=accuracy(0.3 + gain), curve={0.25: accuracy(0.2), 0.5: accuracy(0.3)})
        for n, gain in enumerate(GAINS)
    ]


def test_a_training_that_ended_early_counts_as_what_it_would_have_reached():
    stopped = trial(7, TrialState.STOPPED, curve={0.25: accuracy(0.15), 0.501: accuracy(0.25, 0.004)})
    found = observe(SPACE, [*finished(), stopped], "mlm_accuracy")[-1]
    assert found.extrapolated
    assert found.value == pytest.approx(0.25 + 0.05)
    assert found.variance == pytest.approx(0.004**2 + np.var(GAINS, ddof=1))


def test_of_a_share_that_no_complete_trial_has_an_earlier_one_is_used():
    stopped = trial(7, TrialState.STOPPED, curve={0.25: accuracy(0.15), 0.75: accuracy(0.25)})
    assert observe(SPACE, [*finished(), stopped], "mlm_accuracy")[-1].value == pytest.approx(0.15 + 0.15)


def test_with_too_few_complete_curves_it_is_left_out():
    stopped = trial(7, TrialState.STOPPED, curve={0.25: accuracy(0.15)})
    assert len(observe(SPACE, [*finished()[:2], stopped], "mlm_accuracy")) == 2
    assert len(observe(SPACE, [*finished(), replace(stopped, curve={})], "mlm_accuracy")) == 3
