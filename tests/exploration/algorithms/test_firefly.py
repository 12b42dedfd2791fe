import numpy as np
import pytest

from flashdistill.exploration.algorithms import firefly
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.firefly import FireflySearch
from flashdistill.exploration.algorithms.lattice import Lattice
from flashdistill.exploration.algorithms.population import Population
from flashdistill.exploration.algorithms.population_search import Moment
from flashdistill.exploration.algorithms.vacancies import Vacancies
from flashdistill.testing.algorithm_conformance import AlgorithmConformance
from flashdistill.testing.search_cases import made_up_trials, small_space, trials_to_winners
from flashdistill.testing.synthetic_space import OBJECTIVES

SPACE = small_space()


class TestFireflySearch(AlgorithmConformance):
    def algorithm(self, problem):
        return FireflySearch(problem)


def moment(places, step, objectives):
    """A swarm of these places of the table; results rise with every factor."""
    problem = SearchProblem(objectives, (), SPACE.table[0])
    trials = made_up_trials(SPACE, [SPACE.table[place] for place in places])
    population = Population.of(SPACE, problem, trials, len(places))
    return FireflySearch(problem), Moment(step, population, Lattice(SPACE), Vacancies(SPACE, problem, trials))


def test_a_firefly_moves_towards_each_brighter_one_in_turn(monkeypatch):
    """By hand from the paper's equation, without the random step; the third is the dimmest."""
    monkeypatch.setattr(firefly, "_FIRST_STEP", 0.0)
    algorithm, now = moment([23, 0, 20], step=2, objectives=OBJECTIVES[:1])
    brightest, middle, position = SPACE.encode([SPACE.table[place] for place in (23, 20, 0)])
    for other in (middle, brightest):
        squared = ((other - position) ** 2).sum()
        position = position + firefly._ATTRACTION * np.exp(-firefly._ABSORPTION * squared) * (other - position)
    assert algorithm.wish(now, np.random.default_rng(0)) == pytest.approx(position)


def test_steps_shrink_from_round_to_round():
    def spread(step):
        algorithm, now = moment([11], step, OBJECTIVES[:1])
        rng = np.random.default_rng(0)
        # Where the only firefly is on an edge, half the steps are cut off there.
        return np.abs(np.array([algorithm.wish(now, rng) for _ in range(300)]) - now.population.positions[0]).mean()

    rounds = 10
    later = spread(rounds * FireflySearch.SIZE)
    assert later == pytest.approx(spread(0) * firefly._COOLING**rounds, rel=0.1)


def test_those_that_none_outshines_start_from_all_over_the_front(monkeypatch):
    monkeypatch.setattr(firefly, "_FIRST_STEP", 0.0)
    algorithm, now = moment([0, 5, 17, 23], step=1, objectives=OBJECTIVES)
    assert not now.population.dominates.any()
    rng = np.random.default_rng(0)
    starts = {tuple(algorithm.wish(now, rng)) for _ in range(50)}
    assert {tuple(SPACE.encode([SPACE.table[place]])[0]) for place in (0, 23)} <= starts


def test_the_brightest_of_one_objective_stays_where_it_is(monkeypatch):
    monkeypatch.setattr(firefly, "_FIRST_STEP", 0.0)
    algorithm, now = moment([0, 5, 23], step=0, objectives=OBJECTIVES[:1])
    assert algorithm.wish(now, np.random.default_rng(0)).tolist() == [1.0, 1.0, 1.0, 1.0]


def test_finds_winners_long_before_random_search():
    """Random search needs 216 trials on average for the third of 7 winners among 576."""
    needed = [trials_to_winners(FireflySearch, 3, seed) for seed in range(3)]
    assert np.mean(needed) < 130
