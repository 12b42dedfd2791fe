from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.random import RandomSearch
from flashdistill.testing.algorithm_conformance import AlgorithmConformance
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
