"""Who beats the baseline, by one training and by several."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashdistill.delivery.winners import over_seeds, training_runs, winners
from flashdistill.delivery.winners_table import winners_table


def test_winners_are_ordered_by_how_sure_they_are(judged):
    found = winners(judged)
    assert [(one.trial.number, one.word) for one in found] == [
        (11, "confirmed"),
        (6, "observed once"),
        (2, "not confirmed"),
    ]
    assert [one.clear for one in found] == [True, False, False]


def test_a_student_trained_again_that_never_won_is_no_winner(judged):
    verdict = replace(judged.verdicts[0], number=5, observed=False)
    trial = next(trial for trial in winners(replace(judged, verdicts=(verdict,))) if trial.trial.number == 5)
    assert trial.word == "no winner"


def test_a_single_win_over_a_baseline_that_was_unlucky_is_not_confirmed(judged):
    # 6 has 18.26 %: more than the baseline's first run, less than this mean of it.
    run = {"mlm_accuracy": replace(judged.trials[0].measurements["mlm_accuracy"], value=0.19)}
    better = (run, run)
    record = replace(judged, trials=(replace(judged.trials[0], confirmations=better), *judged.trials[1:]))
    assert {one.trial.number: one.word for one in winners(record)}[6] == "not confirmed"


def test_means_over_seeds(judged):
    trial = judged.trials[11]
    mean = over_seeds(trial)
    assert mean.value("mlm_accuracy") == pytest.approx((0.1786 + 0.1812 + 0.1806) / 3)
    assert mean.measurements["mlm_accuracy"].stderr == pytest.approx(0.000785989, rel=1e-4)
    assert mean.value("latency_ms") == trial.value("latency_ms")
    assert training_runs(trial) == 3
    assert over_seeds(judged.trials[4]) is judged.trials[4]


def test_without_a_baseline_nobody_wins(judged, empty):
    assert winners(replace(judged, trials=judged.trials[1:])) == []
    assert winners_table(empty) is None


def test_the_table(judged, rich):
    table = winners_table(judged)
    assert table is not None
    rows = [[cell.text.replace("\N{NO-BREAK SPACE}", " ") for cell in row.cells] for row in table.rows]
    assert rows[0] == ["192_64_1_256_2", "", "3", "18.01 % ± 0.08", "2.45 ms ± 0.06", "2.3 standard errors"]
    assert table.rows[0].cells[1].badges == ["confirmed by 3 seeds"]
    assert table.rows[0].cells[3].remarks == ["+0.2\N{NO-BREAK SPACE}points", "17.9\N{NO-BREAK SPACE}% in the search"]
    assert table.rows[1].cells[1].badges == ["observed once"]
    assert rows[2][-1] == "−0.4 standard errors"
    assert [row.kind for row in table.rows] == ["", "", "muted", "baseline"]
    once = winners_table(rich)
    assert once is not None
    assert {badge for row in once.rows for badge in row.cells[1].badges} == {"observed once"}
