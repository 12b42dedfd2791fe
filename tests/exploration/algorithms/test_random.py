from flashdistill.core.measurement import Constraint
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.random import RandomSearch
from flashdistill.testing.algorithm_conformance import AlgorithmConformance
from flashdistill.testing.search_cases import vast_space
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem


class TestRandomSearch(AlgorithmConformance):
    def algorithm(self, problem):
        return RandomSearch(problem)


def test_one_at_a_time_equals_all_at_once():
    synthetic = SyntheticProblem()
    algorithm = RandomSearch(SearchProblem(OBJECTIVES, (), synthetic.baseline))
    trials = []
    for number in range(10):
        trials.append(synthetic.run(algorithm.suggest(synthetic.space, trials, 1, seed=3)[0], number))
    assert [trial.architecture for trial in trials] == algorithm.suggest(synthetic.space, [], 10, seed=3)


def test_four_of_a_trillion_keep_the_limit_and_all_are_found():
    """The number of heads leaves the size as it is."""
    space = vast_space()
    smallest = next(space.architectures())
    algorithm = RandomSearch(SearchProblem(OBJECTIVES, [Constraint.parse("num_parameters <= 1.0x")], smallest))
    assert len(set(algorithm.suggest(space, [], 9, seed=0))) == 4
