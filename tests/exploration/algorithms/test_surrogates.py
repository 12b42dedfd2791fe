import numpy as np

from flashdistill.exploration.algorithms.surrogates import Candidates, Surrogates
from flashdistill.testing.algorithm_conformance import small_space
from flashdistill.testing.synthetic_space import SyntheticProblem

SYNTHETIC = SyntheticProblem()
SPACE = SYNTHETIC.space
TRIALS = [SYNTHETIC.run(a, n) for n, a in enumerate(SPACE.sample(20, np.random.default_rng(0)))]
METRICS = ["mlm_accuracy", "latency_ms", "num_parameters"]


def test_a_measured_metric_is_modelled_and_size_is_known():
    surrogates = Surrogates.fit(SPACE, TRIALS, METRICS)
    assert set(surrogates.models) == {"mlm_accuracy", "latency_ms"}
    assert surrogates.knows("num_parameters")
    assert not surrogates.knows("peak_memory_bytes")
    table = Candidates.of(SPACE, SPACE.table)
    size, doubt = surrogates.predict("num_parameters", table)
    np.testing.assert_allclose(np.exp(size), SPACE.table_parameters)
    assert not doubt.any()
    difference, _ = surrogates.predict_excess("num_parameters", table, SPACE.table[3])
    np.testing.assert_allclose(difference, size - size[3])


def test_asking_for_other_candidates_in_between_changes_no_prediction():
    surrogates = Surrogates.fit(SPACE, TRIALS, METRICS)
    table, few = Candidates.of(SPACE, SPACE.table), Candidates.of(SPACE, SPACE.table[:5])
    before = surrogates.predict("latency_ms", table)[0]
    np.testing.assert_allclose(surrogates.predict("latency_ms", few)[0], before[:5])
    np.testing.assert_array_equal(surrogates.predict("latency_ms", table)[0], before)


def test_assumed_results_are_those_predicted():
    surrogates = Surrogates.fit(SPACE, TRIALS, METRICS)
    running = Candidates.of(SPACE, [a for a in SPACE.table if a not in {t.architecture for t in TRIALS}][:3])
    mean, deviation = surrogates.predict("mlm_accuracy", running)
    assumed, less = surrogates.assuming(running).predict("mlm_accuracy", running)
    np.testing.assert_allclose(assumed, mean)
    assert np.all(less < deviation)


def test_candidates_without_one():
    pool = Candidates.of(SPACE, SPACE.table[:4]).without(SPACE.table[1])
    assert pool.architectures == [SPACE.table[0], SPACE.table[2], SPACE.table[3]]
    np.testing.assert_array_equal(pool.features, SPACE.encode(pool.architectures))
    np.testing.assert_array_equal(pool.parameters, SPACE.parameters(pool.architectures))


def test_a_space_of_one_point_has_nothing_to_model():
    space = small_space(hidden_size=128, bottleneck_size=64, intermediate_size=384, num_feedforward=2)
    synthetic = SyntheticProblem(space=space)
    assert Surrogates.fit(space, [synthetic.run(space.table[0], 0)] * 3, METRICS).models == {}
