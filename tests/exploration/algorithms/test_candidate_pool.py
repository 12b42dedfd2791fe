import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Constraint
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms import candidate_pool as module
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.candidate_pool import (
    best_by_climbing,
    candidate_pool,
    moves,
    scored_as_a_whole,
)
from flashdistill.testing.algorithm_conformance import small_space
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem

LONG = {
    "hidden_size": list(range(128, 384, 8)),
    "bottleneck_size": list(range(32, 96, 4)),
    "num_heads": [1, 2, 4, 8],
    "intermediate_size": list(range(128, 256, 8)),
}


def test_all_that_is_untried_and_small_enough():
    space = small_space()
    counts = space.table_parameters
    limit = float(np.sort(counts)[len(counts) // 2])
    trials = [
        Trial(0, space.table[0], TrialState.FAILED),
        Trial(1, space.table[1], TrialState.PENDING),
        Trial(-1, space.table[2], TrialState.MEASURED),
    ]
    problem = SearchProblem(OBJECTIVES, [Constraint.parse(f"num_parameters <= {limit}")], space.table[0])
    pool = candidate_pool(space, problem, trials, seed=0)
    expected = [a for a, n in zip(space.table, counts, strict=True) if n <= limit and a not in space.table[:2]]
    assert list(pool.architectures) == expected
    assert space.table[2] in expected
    np.testing.assert_array_equal(pool.features, space.encode(expected))
    np.testing.assert_array_equal(pool.parameters, space.parameters(expected))


def test_a_large_table_is_only_sampled_once_predictions_are_dear():
    space = small_space(**LONG)
    few = [Trial(number, a, TrialState.FAILED) for number, a in enumerate(space.sample(10, np.random.default_rng(0)))]
    assert 50_000 < space.size < 100_000
    assert scored_as_a_whole(space, few)
    assert not scored_as_a_whole(space, few * 30)


def test_moves_change_one_factor_and_mend_the_heads():
    space = small_space(**LONG)
    start = Architecture(128, 32, 8, 128, 2)
    reached = moves(space, start)
    assert all(found in space and found != start for found in reached)
    assert len(set(reached)) == len(reached)
    assert sorted({found.hidden_size for found in reached}) == [128, 136, 144, 160, 192, 256]
    # 36 channels cannot have 8 heads: they get 4.
    assert Architecture(128, 36, 4, 128, 2) in reached
    assert Architecture(128, 40, 8, 128, 2) in reached


def test_climbing_finds_the_best_of_a_large_space(monkeypatch):
    """The optimum is known: a quadratic around one architecture, with a ripple that makes local optima."""
    monkeypatch.setattr(module, "_AFFORDABLE", -1)
    monkeypatch.setattr(module, "SAMPLE", 300)
    space = small_space(**LONG)
    goal = space.encode([Architecture(200, 72, 4, 176, 4)])[0]

    def score(candidates):
        away = candidates.features - goal
        return -np.square(away).sum(axis=1) + 0.005 * np.cos(60 * away).sum(axis=1)

    problem = SearchProblem(OBJECTIVES, (), space.table[0])
    pool = candidate_pool(space, problem, (), seed=0)
    assert 300 <= len(pool) < 1000
    assert best_by_climbing(space, problem, (), pool, score(pool), score) == Architecture(200, 72, 4, 176, 4)
    excluded = [Architecture(200, 72, 4, 176, 4)]
    assert best_by_climbing(space, problem, excluded, pool, score(pool), score) != excluded[0]


def test_the_front_s_surroundings_are_candidates(monkeypatch):
    monkeypatch.setattr(module, "_AFFORDABLE", -1)
    monkeypatch.setattr(module, "SAMPLE", 20)
    synthetic = SyntheticProblem()
    trials = [synthetic.run(synthetic.baseline, 0)]
    pool = candidate_pool(synthetic.space, SearchProblem(OBJECTIVES, (), synthetic.baseline), trials, seed=0)
    assert set(moves(synthetic.space, synthetic.baseline)) <= set(pool.architectures)


def test_limits_that_random_draws_never_meet():
    space = small_space(
        hidden_size=list(range(128, 1128, 4)),
        bottleneck_size=list(range(32, 432, 4)),
        intermediate_size=list(range(128, 1128, 4)),
        num_feedforward=list(range(1, 9)),
        num_blocks=list(range(1, 25)),
    )
    smallest = Architecture(128, 32, 4, 128, 1, 1)
    limit = float(space.parameters([smallest])[0]) * 1.002
    problem = SearchProblem(OBJECTIVES, [Constraint.parse(f"num_parameters <= {limit}")], smallest)
    pool = candidate_pool(space, problem, (), seed=0)
    assert len(pool) > 2
    assert all(pool.parameters <= limit)
