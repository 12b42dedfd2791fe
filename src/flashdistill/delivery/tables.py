"""The report's tables as text and sort keys; the template only lays them out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from flashdistill.core.measurement import (
    AGAINST_TEACHER,
    METRICS,
    Measurement,
    known_before_training,
    metric_parts,
    metric_unit,
)
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.comparison import Scored
from flashdistill.delivery.formatting import (
    SPACE,
    capitalized,
    format_count,
    format_difference,
    format_measurement,
    format_seconds,
    format_share,
    format_value,
    metric_name,
)
from flashdistill.delivery.record import DeliveredModel, RunRecord
from flashdistill.delivery.winners import over_seeds, training_runs


@dataclass(frozen=True)
class Cell:
    """One cell: its text, remarks below it, and what its column is sorted by.

    Attributes:
        sort: a number, a text, or None, which comes last in either direction.
        link: relative address the text points to.
        numeric: whether the text is set flush right.
        badges: short words set off from the text, such as a state.
    """

    text: str
    sort: float | str | None = None
    remarks: Sequence[str] = ()
    link: str = ""
    numeric: bool = False
    badges: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    kind: Literal["", "baseline", "muted", "total"] = ""


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows; `caption` says what the table holds, for those who cannot see it."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]


def seconds(costs: Mapping[str, float]) -> float | None:
    """All phases together; costs in other units carry the unit in their name (``x_tokens``)."""
    phases = [value for name, value in costs.items() if "_" not in name]
    return sum(phases) if phases else None


_ALWAYS_SHOWN = (
    "num_parameters",
    "mlm_accuracy",
    "served_mlm_accuracy",
    "mlm_loss",
    "nsp_accuracy",
    "latency_ms",
    "peak_memory_bytes",
    "artifact_bytes",
)
"""Metrics that have a column wherever they are known; the others only where something is asked of them."""

_SHOWN_WHEN_DELIVERED = (*_ALWAYS_SHOWN, "perplexity", *AGAINST_TEACHER)


def _metrics(record: RunRecord, scored: Iterable[Scored], always: Sequence[str] = _ALWAYS_SHOWN) -> list[str]:
    """The metrics that have columns: parameters first, then in the order of `METRICS`."""
    asked = {objective.metric for objective in record.objectives}
    asked |= {re.split("[<>]", text)[0].strip() for text in record.constraints}
    found = {name for item in scored for name in item.measurements}
    shown = {name for name in found if name in asked or metric_parts(name)[0] in always}
    order = ["num_parameters", *METRICS]
    return sorted(shown, key=lambda name: (order.index(metric_parts(name)[0]), metric_parts(name)[1] or ""))


def metric_cell(measurement: Measurement | None, remarks: Sequence[str] = ()) -> Cell:
    """Latencies carry their 95 % interval, everything else its standard error."""
    if measurement is None:
        return Cell(format_value("", None), numeric=True)
    noisy = bool(measurement.details.get("noisy"))
    return Cell(
        format_measurement(measurement, interval=metric_unit(measurement.name) == "ms"),
        sort=measurement.value,
        remarks=[remark for remark in remarks if remark],
        numeric=True,
        badges=["noisy"] if noisy else [],
    )


def metric_columns(metrics: Sequence[str]) -> list[Column]:
    return [Column(capitalized(metric_name(metric)), numeric=True) for metric in metrics]


def delivered_table(record: RunRecord) -> Table | None:
    """The models in the run directory against the baseline at the same budget; None without models."""
    if not record.delivered:
        return None
    metrics = _metrics(record, record.delivered, _SHOWN_WHEN_DELIVERED)
    models = sorted(record.delivered, key=lambda model: model.is_baseline)
    return Table(
        "Delivered models",
        [
            Column("Model"),
            *metric_columns(metrics),
            Column("Steps", numeric=True),
            Column("Time", numeric=True),
            Column("ONNX parity", numeric=True),
        ],
        [_delivered_row(record, model, metrics) for model in models],
    )


def _delivered_row(record: RunRecord, model: DeliveredModel, metrics: Sequence[str]) -> Row:
    baseline = record.delivered_baseline
    objectives = {objective.metric for objective in record.objectives}
    cells = []
    for metric in metrics:
        remarks = []
        if baseline is not None and not model.is_baseline:
            remarks.append(format_difference(metric, model.value(metric), baseline.value(metric)))
        searched = model.flash_measurements.get(metric)
        if searched is not None and metric in objectives and not known_before_training(metric):
            remarks.append(f"{format_value(metric, searched.value)} in the search")
        cells.append(metric_cell(model.measurements.get(metric), remarks))
    spent = seconds(model.costs)
    parity = model.parity_max_abs
    # A leading "./" keeps any directory name from being read as an address with a scheme.
    link = f"./{quote(model.directory)}/"
    name = Cell(
        str(model.architecture), str(model.architecture), ["baseline, same budget"] if model.is_baseline else [], link
    )
    return Row(
        [
            name,
            *cells,
            Cell(format_count(model.steps), model.steps, numeric=True),
            Cell(format_seconds(spent), spent, numeric=True),
            Cell(
                format_value("", None) if parity is None else f"{parity:.1e}".replace("e-0", "e-"), parity, numeric=True
            ),
        ],
        kind="baseline" if model.is_baseline else "",
    )


def trials_table(record: RunRecord) -> Table | None:
    """Every trial, the ones that came to nothing included; None before the first."""
    if not record.trials:
        return None
    metrics = _metrics(record, record.trials)
    speed = "latency_ms" in metrics and record.baseline_trial is not None
    columns = [Column("#", numeric=True), Column("Architecture"), Column("State"), *metric_columns(metrics)]
    if speed:
        columns.insert(4 + metrics.index("latency_ms"), Column("Speed", numeric=True))
    columns.append(Column("Time", numeric=True))
    return Table("All trials", columns, [_trial_row(record, trial, metrics, speed) for trial in record.trials])


def _trial_row(record: RunRecord, trial: Trial, metrics: Sequence[str], speed: bool) -> Row:
    cells: list[Cell] = []
    mean = over_seeds(trial)
    for metric in metrics:
        cells.append(_last_score(trial, metric) or metric_cell(mean.measurements.get(metric)))
        if speed and metric == "latency_ms":
            cells.append(_speed_cell(record, trial))
    badges = ["baseline"] if trial.number == 0 else []
    badges += ["front"] if trial.number in record.front else []
    badges += ["selected"] if trial.number in record.selected else []
    badges += [f"{training_runs(trial)} seeds"] if trial.confirmations else []
    spent = seconds(trial.costs)
    return Row(
        [
            Cell(str(trial.number), trial.number, numeric=True),
            Cell(
                str(trial.architecture), str(trial.architecture), [trial.reason] if trial.reason else [], badges=badges
            ),
            Cell(trial.state.value, trial.state.value),
            *cells,
            Cell(format_seconds(spent), spent, numeric=True),
        ],
        kind="baseline" if trial.number == 0 else "" if trial.state is TrialState.COMPLETE else "muted",
    )


def _last_score(trial: Trial, metric: str) -> Cell | None:
    """What a student stopped early had reached; it sorts as unknown, for it is no final value."""
    share = max(trial.curve, default=None) if trial.state is TrialState.STOPPED else None
    if share is None or metric in trial.measurements or metric not in trial.curve[share]:
        return None
    reached = format_value(metric, trial.curve[share][metric].value)
    return Cell(reached, remarks=[f"after {format_share(share)} of training"], numeric=True)


def _speed_cell(record: RunRecord, trial: Trial) -> Cell:
    """Times faster than the baseline: the interleaved measurement's own ratio where it is known."""
    baseline = record.baseline_trial
    own, reference = trial.value("latency_ms"), baseline.value("latency_ms") if baseline else None
    if not own or not reference:
        return Cell(format_value("", None), numeric=True)
    ratio = trial.measurements["latency_ms"].details.get("ratio")
    speed = 1 / ratio if isinstance(ratio, float) and ratio > 0 else reference / own
    return Cell(f"{speed:.2f}×", speed, numeric=True)


def costs_table(record: RunRecord) -> Table | None:
    """Seconds of the run by phase, with shares; None where no costs are known."""
    total = sum(record.costs.values())
    if total <= 0:
        return None
    rows = [
        Row([Cell(phase, phase), _time_cell(spent), Cell(format_share(spent / total), spent, numeric=True)])
        for phase, spent in record.costs.items()
    ]
    rows.append(Row([Cell("total"), _time_cell(total), Cell(f"100{SPACE}%", numeric=True)], kind="total"))
    columns = [Column("Phase of the run"), Column("Time", numeric=True), Column("Share", numeric=True)]
    return Table("Time of the run by phase", columns, rows)


def student_costs_table(record: RunRecord) -> Table | None:
    """What one evaluated trial cost on average; None where that is not known."""
    costs = [trial.costs for trial in record.evaluated if trial.costs]
    phases = list(dict.fromkeys(phase for item in costs for phase in item))
    if not phases:
        return None
    rows = []
    for phase in phases:
        mean = sum(item.get(phase, 0.0) for item in costs) / len(costs)
        cell = _time_cell(mean) if "_" not in phase else Cell(format_count(mean), mean, numeric=True)
        rows.append(Row([Cell(phase.replace("_", " "), phase), cell]))
    columns = [Column("One evaluated trial, on average"), Column("Cost", numeric=True)]
    return Table("Mean cost of an evaluated trial", columns, rows)


def _time_cell(spent: float) -> Cell:
    return Cell(format_seconds(spent), spent, numeric=True)
