import numpy as np
import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint
from flashdistill.core.trial import TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.vacancies import Vacancies
from flashdistill.testing.search_cases import made_up_trials, small_space, vast_space, with_state
from flashdistill.testing.synthetic_space import OBJECTIVES

SMALLEST = Architecture(128, 32, 4, 128, 1, 1)


def problem(*constraints, baseline=SMALLEST):
    return SearchProblem(OBJECTIVES, [Constraint.parse(text) for text in constraints], baseline)


def drained(vacancies, position):
    found = []
    while (nearest := vacancies.nearest(position)) is not None:
        assert nearest not in found
        found.append(nearest)
        vacancies.take(nearest)
    return found


def test_an_enumerable_space_is_drained_from_near_to_far():
    space = small_space()
    position = np.array([0.9, 0.2, 0.4, 0.6])
    found = drained(Vacancies(space, problem(baseline=space.table[0]), []), position)
    assert sorted(found) == sorted(space.table)
    assert np.all(np.diff(np.square((space.encode(found) - position) * [1, 1, 1, 2]).sum(axis=1)) > -1e-9)


def test_what_is_tried_or_too_large_is_not_free_but_what_is_measured_is():
    space = small_space()
    tried, probe = made_up_trials(space, space.table[:2])
    limit = int(np.median(space.table_parameters))
    vacancies = Vacancies(
        space,
        problem(f"num_parameters <= {limit}", baseline=tried.architecture),
        [tried, with_state(probe, TrialState.MEASURED)],
    )
    allowed = {a for a, count in zip(space.table, space.table_parameters, strict=True) if count <= limit}
    assert {a for a in space.table if a in vacancies} == allowed - {tried.architecture}
    assert probe.architecture in vacancies
    assert Architecture(999, 64, 4, 384, 2) not in vacancies


def test_hopeless_ones_come_last():
    space = small_space()
    hopeless = space.table[:5]
    vacancies = Vacancies(space, problem(baseline=space.table[0]), [], hopeless)
    assert hopeless[0] not in vacancies
    found = drained(vacancies, np.zeros(4))
    assert set(found[-5:]) == set(hopeless)
    assert len(found) == len(space.table)


@pytest.mark.parametrize("hopeless", [[], [SMALLEST]])
def test_four_of_a_trillion_keep_the_limit_and_all_are_found(hopeless):
    """The number of heads leaves the size as it is."""
    space = vast_space()
    vacancies = Vacancies(space, problem("num_parameters <= 1.0x"), [], hopeless)
    found = drained(vacancies, np.full(6, 0.7))
    assert sorted(found) == [Architecture(128, 32, heads, 128, 1, 1) for heads in (1, 2, 4, 8)]
    assert found[-1:] == hopeless or not hopeless


def test_a_narrow_band_of_sizes_is_found_from_everywhere():
    vacancies = Vacancies(vast_space(), problem("num_parameters >= 50e6", "num_parameters <= 50.5e6"), [])
    assert all(vacancies.nearest(position) is not None for position in np.random.default_rng(0).random((8, 6)))
