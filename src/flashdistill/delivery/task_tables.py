"""Scores on tasks as text and tables, for the terminal, the report and the cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flashdistill.delivery.formatting import MINUS, MISSING, SPACE, capitalized, format_count
from flashdistill.delivery.tables import Cell, Column, Row, Table
from flashdistill.delivery.task_record import TaskAverage, TaskDifference, TaskResult, TasksRecord

_Key = tuple[str, str, str]


def score_text(unit: str, value: float, spread: float | None = None, signed: bool = False) -> str:
    """``91.3 ± 0.4``: fractions in per cent, everything else with three decimals."""
    scale, decimals = (100.0, 1) if unit == "fraction" else (1.0, 3)
    text = f"{scale * value:{'+' if signed else ''}.{decimals}f}".replace("-", MINUS)
    return text if spread is None else f"{text}{SPACE}±{SPACE}{scale * spread:.{decimals}f}"


def difference_text(unit: str, difference: TaskDifference | None) -> str:
    """``+1.2 [0.3, 2.1]``: the mean difference from the reference and its 95 % interval; empty without one."""
    if difference is None:
        return ""
    mean, half = difference.mean, difference.half_width
    text = score_text(unit, mean, signed=True)
    if half is None:
        return text
    return f"{text}{SPACE}[{score_text(unit, mean - half)},{SPACE}{score_text(unit, mean + half)}]"


def metric_text(title: str, unit: str) -> str:
    """``accuracy [%]``."""
    return f"{title}{SPACE}[%]" if unit == "fraction" else title


def by_row(record: TasksRecord) -> dict[_Key, dict[str, TaskResult]]:
    """Results by (task, split, metric) and by model."""
    rows: dict[_Key, dict[str, TaskResult]] = {}
    for result in record.results:
        rows.setdefault((result.task, result.split, result.metric), {})[result.model] = result
    return rows


def averages_by_row(record: TasksRecord) -> dict[tuple[str, str], dict[str, TaskAverage]]:
    """Averages by (metric, split) and by model."""
    rows: dict[tuple[str, str], dict[str, TaskAverage]] = {}
    for average in record.averages:
        rows.setdefault((average.metric, average.on), {})[average.model] = average
    return rows


def seeds_text(record: TasksRecord) -> str:
    """What stands after ± in the tables."""
    count = len(record.seeds)
    if count == 1:
        return "Each model was fine-tuned with one seed: what another seed would change is not known."
    return f"Mean ± standard deviation over {count} seeds."


def tasks_table(record: TasksRecord) -> Table | None:
    """A row for every task, split and metric, a column for every model; None without scores."""
    if not record.results:
        return None
    names = [model.name for model in record.models]
    columns = [Column("Task"), Column("Split"), Column("Metric"), Column("Rows", numeric=True)]
    columns += [Column(_model_title(record, name), numeric=True) for name in names]
    rows = [_row(key, found, names) for key, found in by_row(record).items()]
    rows += [_average_row(found, names) for found in averages_by_row(record).values()]
    return Table("Scores on tasks", columns, rows)


def _model_title(record: TasksRecord, name: str) -> str:
    role = next(model.role for model in record.models if model.name == name)
    return f"{name} ({role})" if role in ("baseline", "teacher") and role not in name else name


def _row(key: _Key, found: Mapping[str, TaskResult], names: Sequence[str]) -> Row:
    task, split, _ = key
    one = next(iter(found.values()))
    return Row(
        [
            Cell(task),
            Cell(split.replace("_", " ")),
            Cell(metric_text(one.title, one.unit)),
            Cell(format_count(one.samples), one.samples, numeric=True),
            *(_cell(found.get(name)) for name in names),
        ]
    )


def _cell(result: TaskResult | None) -> Cell:
    if result is None:
        return Cell(MISSING, numeric=True)
    remark = difference_text(result.unit, result.difference)
    text = score_text(result.unit, result.mean, result.deviation)
    if (count := len(result.values)) > 1:
        text += f"{SPACE}({count})"
    return Cell(text, result.mean, [remark] if remark else [], numeric=True)


def _average_row(found: Mapping[str, TaskAverage], names: Sequence[str]) -> Row:
    one = next(iter(found.values()))
    cells = [
        Cell(score_text(average.unit, average.value) if (average := found.get(name)) else MISSING, numeric=True)
        for name in names
    ]
    title = Cell("average", remarks=[", ".join(one.tasks)])
    return Row([title, Cell(one.on), Cell(metric_text(one.title, one.unit)), Cell(""), *cells], kind="total")


def card_rows(record: TasksRecord, model: str) -> list[tuple[str, str, str, str, str, str]]:
    """Rows of a model's card: task, split, metric, number of rows, score over seeds, difference from the reference."""
    return [
        (
            result.task,
            result.split.replace("_", " "),
            capitalized(metric_text(result.title, result.unit)),
            format_count(result.samples),
            score_text(result.unit, result.mean, result.deviation),
            difference_text(result.unit, result.difference) or MISSING,
        )
        for result in record.results_of(model)
    ]
