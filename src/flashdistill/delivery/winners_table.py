"""The winners as a table: what one training showed, what several seeds say, and how sure that is."""

from __future__ import annotations

from flashdistill.core.measurement import Objective, known_before_training
from flashdistill.core.trial import Trial
from flashdistill.delivery.formatting import MINUS, MISSING, SPACE, format_difference, format_value
from flashdistill.delivery.record import RunRecord
from flashdistill.delivery.tables import Cell, Column, Row, Table, metric_cell, metric_columns
from flashdistill.delivery.winners import Winner, over_seeds, training_runs, winners


def winners_table(record: RunRecord) -> Table | None:
    """Every student that beat the baseline once or was trained again, and the baseline; None without one."""
    found, baseline = winners(record), record.baseline_trial
    if not found or baseline is None:
        return None
    columns = [
        Column("Architecture"),
        Column("Verdict"),
        Column("Seeds", numeric=True),
        *metric_columns([objective.metric for objective in record.objectives]),
        Column("Smallest lead", numeric=True),
    ]
    rows = [_winner_row(record, winner, over_seeds(baseline)) for winner in found]
    rows.append(
        Row(
            [
                Cell(str(baseline.architecture)),
                Cell("baseline"),
                Cell(str(training_runs(baseline)), numeric=True),
                *(_value(baseline, objective) for objective in record.objectives),
                Cell(MISSING, numeric=True),
            ],
            kind="baseline",
        )
    )
    return Table("Students that beat the baseline, by what further seeds say", columns, rows)


def _winner_row(record: RunRecord, winner: Winner, baseline: Trial) -> Row:
    count, margin = training_runs(winner.trial), winner.margin
    word = f"confirmed by {count} seeds" if winner.word == "confirmed" else winner.word
    lead = MISSING if margin is None else f"{margin:.1f}{SPACE}standard errors".replace("-", MINUS)
    return Row(
        [
            Cell(str(winner.trial.architecture)),
            Cell("", badges=[word]),
            Cell(str(count), numeric=True),
            *(_value(winner.trial, objective, baseline) for objective in record.objectives),
            Cell(lead, numeric=True),
        ],
        kind="" if winner.holds else "muted",
    )


def _value(trial: Trial, objective: Objective, baseline: Trial | None = None) -> Cell:
    """The mean over seeds, its difference from the baseline's, and what the search saw."""
    metric, mean, remarks = objective.metric, over_seeds(trial), []
    if baseline is not None:
        remarks.append(format_difference(metric, mean.value(metric), baseline.value(metric)))
    if trial.confirmations and not known_before_training(metric):
        remarks.append(f"{format_value(metric, trial.value(metric))} in the search")
    return metric_cell(mean.measurements.get(metric), remarks)
