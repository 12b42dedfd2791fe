"""The verdict says what the data say, in every outcome a run can have."""

from __future__ import annotations

from dataclasses import replace

from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.verdict import joined
from flashdistill.delivery.verdict import verdict as make_verdict

BASELINE = "192_64_2_256_2"


def verdict(record) -> str:
    return make_verdict(record).replace("\N{NO-BREAK SPACE}", " ")


def test_several_beat_the_baseline(rich):
    text = verdict(rich)
    assert text.startswith(
        f"3 of the 9 students evaluated beat the baseline {BASELINE} in both MLM accuracy and latency: "
        "192_64_4_256_2, 256_64_4_256_2 and 192_64_1_256_2. None of them is better by more than two standard errors"
    )
    assert (
        "The fastest student at no loss of MLM accuracy is 192_64_1_256_2: 1.31× faster "
        "(2.45 ms against 3.21 ms) at 17.9 % against 17.8 % MLM accuracy." in text
    )
    assert "3 students were distilled in full; 2 of them beat the baseline at the same budget" in text
    assert "256_64_4_256_2 with 22.0 % against 21.3 % MLM accuracy and 3.11 ms against 3.22 ms latency." in text
    assert text.endswith(
        "12 architectures of 144 possible beside the baseline: "
        "9 distilled and evaluated, 2 ruled out by a constraint and 1 failed."
    )


def test_one_beats_the_baseline_clearly(trial, record_of):
    text = verdict(record_of(trial(0, BASELINE, 0.18, 3.0), trial(1, "128_64_2_256_2", 0.20, 2.0)))
    assert text.startswith(
        f"The one student evaluated, 128_64_2_256_2, beats the baseline {BASELINE} in both MLM accuracy and latency."
    )
    assert "standard errors" not in text


def test_some_of_the_wins_are_clear(trial, record_of):
    text = verdict(
        record_of(
            trial(0, BASELINE, 0.18, 3.0), trial(1, "128_64_2_256_2", 0.20, 2.0), trial(2, "128_64_1_256_2", 0.181, 2.9)
        )
    )
    assert (
        "1 of them is better by more than two standard errors in every objective; noise may explain the rest." in text
    )


def test_none_beats_the_baseline(trial, record_of):
    text = verdict(
        record_of(
            trial(0, BASELINE, 0.18, 3.0),
            trial(1, "128_64_2_256_2", 0.17, 2.0),
            trial(2, "256_64_2_256_2", 0.19, 4.0),
            front=(0, 1, 2),
        )
    )
    assert text.startswith(f"None of the 2 students evaluated beats the baseline {BASELINE} in both MLM accuracy")
    assert "2 students are on the Pareto front and trade one for the other." in text
    assert "faster" not in text


def test_no_student_keeps_the_accuracy(trial, record_of):
    text = verdict(record_of(trial(0, BASELINE, 0.18, 3.0), trial(1, "128_64_2_256_2", 0.17, 2.0)))
    assert f"The one student evaluated, 128_64_2_256_2, does not beat the baseline {BASELINE}" in text
    assert "No student keeps the baseline's MLM accuracy." in text


def test_further_seeds_confirm_or_not(judged):
    text = verdict(judged)
    assert text.startswith(
        f"3 of the 9 students evaluated beat the baseline {BASELINE} in both MLM accuracy and latency in a single "
        "training: 192_64_4_256_2, 256_64_4_256_2 and 192_64_1_256_2. 2 of these were trained again from other seeds, "
        "and on average over all seeds 1 beats the baseline's average (192_64_1_256_2), "
        "all by more than two standard errors."
    )
    assert "192_64_1_256_2: 1.31× faster (2.45 ms against 3.21 ms) at 18.0 % against 17.9 % MLM accuracy." in text
    assert "9 distilled and evaluated, 2 stopped early, 2 ruled out by a constraint and 1 failed." in text


def test_further_seeds_confirm_nothing(judged):
    text = verdict(replace(judged, verdicts=judged.verdicts[:1]))
    assert "1 of these was trained again from other seeds, and it does not beat the baseline on average." in text
    unsure = replace(judged.verdicts[1], margin=1.1)
    text = verdict(replace(judged, verdicts=(unsure,)))
    assert "1 beats the baseline's average (192_64_1_256_2), though not by more than two standard errors." in text


def test_nothing_happened_yet(empty):
    assert verdict(empty) == "No architecture has been tried yet."


def test_only_the_baseline(trial, record_of):
    assert verdict(record_of(trial(0, BASELINE, 0.18, 3.0))) == (
        f"No student was evaluated, so nothing can be compared with the baseline {BASELINE}."
    )


def test_everything_failed(all_failed):
    text = verdict(all_failed)
    assert text.startswith(f'The baseline {BASELINE} failed (export: <no> & "yes"), so there is nothing to compare')
    assert text.endswith("beside the baseline: 3 failed.")


def test_the_baseline_alone_failed(trial, record_of):
    failed = Trial(0, Architecture.parse(BASELINE), TrialState.FAILED)
    text = verdict(record_of(failed, trial(1, "128_64_2_256_2", 0.17, 2.0), trial(2, "256_64_2_256_2", 0.19, 4.0)))
    assert text.startswith(f"The baseline {BASELINE} failed, so there is nothing to compare the students with.")
    assert (
        "The best MLM accuracy has 256_64_2_256_2 (19.0 %) and the best latency has 128_64_2_256_2 (2.00 ms)." in text
    )


def test_the_baseline_is_infeasible_or_pending(trial, record_of):
    student = trial(1, "128_64_2_256_2", 0.17, 2.0)
    for state, phrase in (
        (TrialState.INFEASIBLE, "breaks a constraint"),
        (TrialState.PENDING, "has not been evaluated"),
    ):
        text = verdict(record_of(Trial(0, Architecture.parse(BASELINE), state), student))
        assert phrase in text.split(".")[0]


def test_a_single_objective(single):
    text = verdict(single)
    assert text.startswith(f"5 of the 9 students evaluated beat the baseline {BASELINE} in latency.")
    assert "4 of them are better by more than two standard errors; noise may explain the rest." in text
    assert "The best latency has 192_64_1_256_2: 2.45 ms against 3.21 ms (1.31× faster)." in text


def test_three_objectives(rich):
    record = replace(rich, objectives=(*rich.objectives, Objective("num_parameters", "minimize")), delivered=())
    assert "in all of MLM accuracy, latency and parameters" in verdict(record)


def test_latency_given_first_reads_the_same(rich):
    record = replace(rich, objectives=rich.objectives[::-1])
    assert "The fastest student at no loss of MLM accuracy is 192_64_1_256_2" in verdict(record)


def test_delivered_without_a_baseline(rich):
    record = replace(rich, delivered=rich.delivered[:1])
    assert "1 student was distilled in full; best is 192_64_1_256_2 with 21.4 % MLM accuracy and 2.47 ms latency." in (
        verdict(record)
    )


def test_delivered_but_beaten(rich):
    record = replace(rich, delivered=(rich.delivered[2], rich.delivered[3]))
    assert "1 student was distilled in full; it does not beat the baseline in both" in verdict(record)


def test_joined():
    assert joined([]) == ""
    assert joined(["a"]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"
