import math

import numpy as np
import pytest

from flashdistill.core.measurement import Constraint
from flashdistill.core.trial import TrialState
from flashdistill.exploration.algorithms.base import SearchProblem, tried, untried, untried_table
from flashdistill.testing.search_cases import STATES, made_up_trials, small_space, with_state
from flashdistill.testing.synthetic_space import OBJECTIVES

SPACE = small_space()
BASELINE = SPACE.table[0]
PARAMETERS = float(SPACE.table_parameters[0])


def problem(*constraints):
    return SearchProblem(OBJECTIVES, [Constraint.parse(text) for text in constraints], BASELINE)


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        ((), (0.0, math.inf)),
        (("latency_ms <= 5", "mlm_accuracy >= 0.3"), (0.0, math.inf)),
        (("num_parameters <= 9e6", "num_parameters <= 7e6", "num_parameters >= 4e6"), (4e6, 7e6)),
        (("num_parameters <= 1.5x", "num_parameters >= 0.5x"), (0.5 * PARAMETERS, 1.5 * PARAMETERS)),
    ],
)
def test_size_range(constraints, expected):
    assert problem(*constraints).size_range(SPACE) == expected


def test_the_limits_themselves_are_allowed():
    counts = np.array([3_999_999, 4_000_000, 7_000_000, 7_000_001])
    within = problem("num_parameters <= 7e6", "num_parameters >= 4e6").within_size_limits(SPACE, counts)
    assert within.tolist() == [False, True, True, False]


def test_all_states_but_measured_count_as_tried():
    states = [*dict.fromkeys(STATES), TrialState.MEASURED]
    assert set(states) == set(TrialState)
    trials = [with_state(t, state) for t, state in zip(made_up_trials(SPACE, SPACE.table[:6]), states, strict=True)]
    assert tried(trials) == set(SPACE.table[:5])
    assert untried_table(SPACE, problem(), trials) == list(SPACE.table[5:])
    assert untried(SPACE, problem(), trials, SPACE.table[8:3:-1]) == list(SPACE.table[8:4:-1])
