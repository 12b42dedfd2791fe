"""Which architectures an audit takes: what is known first, the front, then what is least alike."""

from __future__ import annotations

from flashdistill.audit_choice import architectures_to_audit, evenly
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.measurement import Constraint, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.exploration.space import DesignSpace

SPACE = DesignSpace(
    SpaceSettings.model_validate(
        {
            "num_blocks": 2,
            "embedding_size": 8,
            "hidden_size": [16, 32, 48, 64],
            "bottleneck_size": [8, 16],
            "num_heads": [1, 2],
            "intermediate_size": [16, 32],
            "num_feedforward": [1, 2],
        }
    ),
    StudentFamily(num_blocks=2, embedding_size=8, vocab_size=100),
)
BASELINE = Architecture(48, 16, 2, 32, 2)
PROBLEM = SearchProblem([Objective("mlm_accuracy", "maximize")], [], BASELINE)


def trial(number: int, architecture: Architecture, state: TrialState = TrialState.COMPLETE) -> Trial:
    return Trial(number, architecture, state)


def chosen(trials: list[Trial], front: list[Trial], regular: list[Architecture], count: int, problem=PROBLEM):  # type: ignore[no-untyped-def]
    return architectures_to_audit(SPACE, problem, trials, front, regular, count, seed=0)


def test_spread_indices() -> None:
    assert evenly(9, 3) == [0, 4, 8]
    assert evenly(4, 4) == [0, 1, 2, 3]
    assert evenly(5, 1) == [2]
    assert evenly(5, 0) == []
    assert all(len(set(evenly(length, count))) == count for length in range(1, 30) for count in range(length + 1))


def test_without_a_search_the_space_is_covered() -> None:
    found = chosen([], [], [], 16)
    assert found[0] == BASELINE
    assert len(set(found)) == 16
    for factor, choices in SPACE.factors.items():
        assert {getattr(one, factor) for one in found} == set(choices)
    assert found == chosen([], [], [], 16), "the same every time"


def test_known_ones_and_the_front_come_first() -> None:
    trials = [trial(number, architecture) for number, architecture in enumerate([BASELINE, *SPACE.table[:20]])]
    front, delivered = trials[1:13], trials[15].architecture
    found = chosen(trials, front, [delivered], 10)
    assert found[:2] == [BASELINE, delivered]
    places = [front.index(next(one for one in front if one.architecture == each)) for each in found[2:7]]
    assert places == [0, 3, 6, 8, 11] or places == evenly(12, 5), "evenly along the front, its ends included"
    assert len(set(found)) == 10
    assert {one.architecture for one in trials} >= set(found), "what was trained costs no flash distillation"


def test_all_that_is_known_in_full_is_used() -> None:
    known = list(SPACE.table[:6])
    assert chosen([], [], known, 4) == [BASELINE, *known]


def test_what_broke_a_limit_is_not_taken() -> None:
    small = SPACE.table[0]
    size = int(SPACE.parameters([BASELINE])[0])
    problem = SearchProblem(PROBLEM.objectives, [Constraint("num_parameters", "<=", size)], BASELINE)
    found = chosen([trial(0, BASELINE), trial(1, small, TrialState.INFEASIBLE)], [], [], 200, problem)
    assert small not in found
    assert SPACE.parameters(found).max() <= size
    assert len(found) < SPACE.size
