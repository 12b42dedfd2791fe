"""The health of the search in words: silent while all is well, one advice for each trouble."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.health import Noise, Reason, SearchHealth
from flashdistill.core.trial import TrialState
from flashdistill.delivery.health_text import health_facts, health_table, health_warnings


@pytest.fixture
def warnings(judged):
    """``warnings(change=...)``: those of the judged record with its health changed so."""

    def make(**changes):
        texts = health_warnings(replace(judged, health=replace(judged.health, **changes)))
        return [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts]

    return make


def test_all_is_well(warnings, rich):
    assert warnings() == []
    assert health_warnings(rich) == []


def test_facts(judged):
    facts = dict(health_facts(judged.health))
    assert facts["students"] == ("9 distilled and evaluated, 2 stopped early, 2 ruled out by a constraint and 1 failed")
    assert facts["latency probes"] == "5 architectures measured without training"
    assert facts["keep every constraint"].replace("\N{NO-BREAK SPACE}", " ") == (
        "85 %; latency_ms <= 1.7x excludes 1 and num_parameters <= 9e+06 excludes 1"
    )
    assert facts["the front moved last"] == "3 trained students ago"
    assert facts["failed, 1 time"] == "block 2 diverged at step 31 <loss>"
    assert dict(health_facts(SearchHealth()))["students"] == "none yet"


def test_table(judged):
    table = health_table(judged.health)
    assert table is not None
    rows = [[cell.text.replace("\N{NO-BREAK SPACE}", " ") for cell in row.cells] for row in table.rows]
    assert rows[0] == ["MLM accuracy", "10", "0.78", "0.82", "90 %", "0.16 points", "2.1 points", "0.44 points"]
    assert rows[1] == ["Latency", "12", "0.97", "0.94", "100 %", "0.040 ms", "2.5 ms", "0.11 ms"]
    assert health_table(SearchHealth()) is None


def test_nearly_nothing_is_feasible(warnings):
    (text,) = warnings(counts={"complete": 2, "infeasible": 18}, broken={"latency_ms <= 0.5x": 17}, unmoved=0)
    assert text == (
        "Only 2 of 20 students keep every constraint. Loosen latency_ms <= 0.5x, which excludes 17, "
        "or offer smaller choices in the space."
    )
    assert warnings(counts={"infeasible": 4}, broken={"latency_ms <= 0.5x": 4}) == [], "too early to say"


def test_failures_name_the_commonest_reason(warnings):
    reasons = (Reason("out of memory", 3, Architecture.parse("512_128_4_512_4")),)
    (text,) = warnings(counts={"complete": 20, "failed": 4}, failures=reasons)
    assert (
        text == "4 of 24 students failed, 3 of them alike, such as 512_128_4_512_4 (out of memory). The log says more."
    )
    assert warnings(counts={"complete": 20, "failed": 1}, failures=reasons) == []


def test_noise_that_hides_the_differences(warnings):
    blurred = Noise("mlm_accuracy", 0.004, 0.02, "standard errors", 10)
    (text,) = warnings(noise=(blurred,))
    assert "all students lie within 2.0 points, and differences below 1.1 points between two single runs" in text
    assert "search.confirm_seeds" in text
    (text,) = warnings(noise=(Noise("latency_ms@gpu", 1.0, 2.0, "standard errors", 10),))
    assert text.startswith("Noise blurs latency on gpu")
    assert "further_targets.gpu.measurement.seconds" in text
    (text,) = warnings(noise=(Noise("mlm_accuracy", 0.004, 0.0, "seeds", 10),))
    assert text.startswith("All students have the same MLM accuracy, so it cannot guide the search: train longer")


def test_a_model_that_has_learnt_nothing(warnings, judged):
    poor = replace(judged.health.predictions[0], r2=-0.12, tau=0.05)
    (text,) = warnings(predictions=(poor,))
    assert text.startswith("The model predicts MLM accuracy no better than the mean of all students does (R² −0.12")
    assert "train longer in the search (flash)" in text
    (text,) = warnings(predictions=(replace(judged.health.predictions[1], r2=0.02, tau=0.1),))
    assert "search.latency_probes" in text
    # An outlier spoils R² but not the order, by which the search chooses.
    assert warnings(predictions=(replace(poor, tau=0.7),)) == []
    few = {name: getattr(poor, name)[:5] for name in ("observed", "predicted", "low", "high")}
    assert warnings(predictions=(replace(poor, **few),)) == []


def test_other_algorithms_need_no_model(judged):
    poor = replace(judged.health.predictions[0], r2=-0.12, tau=0.05)
    health = replace(judged.health, predictions=(poor,))
    assert health_warnings(replace(judged, health=health, search={"algorithm": "random"})) == []


def test_a_model_that_is_too_sure(warnings, judged):
    (text,) = warnings(predictions=(replace(judged.health.predictions[0], within_two=0.6),))
    assert text.startswith("The model is too sure of MLM accuracy: 60 % of the students")


@pytest.mark.parametrize(("trained", "unmoved", "said"), [(100, 40, True), (100, 39, False), (12, 9, False)])
def test_a_front_that_stands_still(warnings, trained, unmoved, said):
    found = warnings(counts={"complete": trained}, unmoved=unmoved)
    wanted = (
        f"The front has not moved for {unmoved} of {trained} trained students: stop the search, or widen the space."
    )
    assert found == ([wanted] if said else [])


def test_an_exhausted_space(warnings):
    (text,) = warnings(untried=0, unmoved=100)
    assert text.startswith("Every architecture of the space has been tried")


def test_counts_of_several_states():
    health = SearchHealth(counts={"complete": 3, "stopped": 2, "infeasible": 5})
    assert health.count(TrialState.COMPLETE, TrialState.INFEASIBLE) == 8
    assert (health.trained, health.feasible_share) == (5, 0.5)
