from dataclasses import replace
from typing import Literal

import numpy as np

from flashdistill.core.architecture import Architecture
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.algorithms.acquisition import expected_hypervolume_improvement
from flashdistill.exploration.algorithms.base import SearchProblem
from flashdistill.exploration.algorithms.limits import Limits
from flashdistill.exploration.algorithms.promise import Promise
from flashdistill.exploration.algorithms.surrogates import Candidates, Surrogates
from flashdistill.testing.synthetic_space import OBJECTIVES, SyntheticProblem

SYNTHETIC = SyntheticProblem()
SPACE = SYNTHETIC.space
TABLE = Candidates.of(SPACE, SPACE.table)


def history(count=25):
    drawn = SPACE.sample(count, np.random.default_rng(0), exclude=[SYNTHETIC.baseline])
    return [SYNTHETIC.run(architecture, number) for number, architecture in enumerate([SYNTHETIC.baseline, *drawn])]


def promise(
    goal: Literal["front", "beat-baseline"] = "front",
    trials=None,
    baseline=SYNTHETIC.baseline,
    chosen=(),
    objectives=OBJECTIVES,
):
    trials = history() if trials is None else trials
    problem = SearchProblem(objectives, (), baseline, goal)
    surrogates = Surrogates.fit(SPACE, trials, [objective.metric for objective in objectives])
    return Promise(problem, SPACE, surrogates, trials, chosen, TABLE), surrogates, problem, trials


def test_beating_the_baseline_is_scored_by_its_probability():
    judge, surrogates, problem, trials = promise("beat-baseline")
    expected = Limits(problem, surrogates, trials).log_beating(TABLE, OBJECTIVES)
    np.testing.assert_array_equal(judge.scores(TABLE), expected)


def test_a_baseline_that_nothing_can_beat_is_given_up():
    """A deep one, of near-perfect accuracy: the search maps the front instead."""
    unbeatable = Architecture(512, 128, 4, 512, 4, 48)
    perfect = {name: replace(m, value=0.99) for name, m in history()[0].measurements.items() if name == "mlm_accuracy"}
    trials = history()
    trials[0] = replace(trials[0], architecture=unbeatable, measurements={**trials[0].measurements, **perfect})
    beating, mapping = promise("beat-baseline", trials, unbeatable)[0], promise("front", trials, unbeatable)[0]
    np.testing.assert_array_equal(beating.scores(TABLE), mapping.scores(TABLE))


def test_the_front_consists_of_beliefs_about_what_was_trained():
    """One objective: the gain is the expected improvement over the best prediction, not over the best result."""
    objective = OBJECTIVES[0]
    judge, surrogates, _, trials = promise(objectives=[objective])
    mean, deviation = surrogates.predict("mlm_accuracy", TABLE)
    tried = Candidates.of(SPACE, [trial.architecture for trial in trials])
    best = surrogates.predict("mlm_accuracy", tried)[0].max()
    gain = expected_hypervolume_improvement(mean[:, None], deviation[:, None], np.array([[best]]), np.array([best - 1]))
    order = np.argsort(gain)[-50:]
    np.testing.assert_allclose(judge.scores(TABLE)[order], np.log(gain[order]), rtol=1e-6)


def test_what_is_running_is_worth_little():
    judge, *_ = promise()
    best = SPACE.table[int(np.argmax(judge.scores(TABLE)))]
    single = Candidates.of(SPACE, [best])
    before = judge.scores(single)[0]
    running = [*history(), Trial(99, best, TrialState.PENDING)]
    assert promise(trials=running)[0].scores(single)[0] < before - 0.5
    assert promise(chosen=[best])[0].scores(single)[0] < before - 0.5


def test_without_models_there_are_no_scores_but_a_worth():
    judge, *_ = promise(trials=history(1))
    assert not judge.ready
    np.testing.assert_array_equal(judge.log_worth_training(TABLE), np.zeros(len(TABLE)))


def test_before_training_only_what_is_measured_then_counts():
    judge, surrogates, problem, trials = promise("beat-baseline")
    expected = Limits(problem, surrogates, trials).log_beating(TABLE, OBJECTIVES[1:])
    np.testing.assert_array_equal(judge.log_worth_training(TABLE), expected)
