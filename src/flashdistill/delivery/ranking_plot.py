"""The evaluated trials in order, for runs with a single objective."""

from __future__ import annotations

from matplotlib.axes import Axes

from flashdistill.core.measurement import Objective
from flashdistill.core.trial import Trial
from flashdistill.delivery.comparison import beats, headline
from flashdistill.delivery.formatting import axis_label, axis_scale, metric_name
from flashdistill.delivery.front_plot import better
from flashdistill.delivery.plot_style import (
    BASELINE,
    DELIVERED,
    STUDENT,
    Plot,
    legend_above,
    new_figure,
    set_title,
    style,
)
from flashdistill.delivery.record import RunRecord
from flashdistill.delivery.winners import over_seeds

_MOST_RANKED = 30


def ranking_plot(record: RunRecord) -> Plot | None:
    """The best evaluated trials by the only objective; None if there are several or no trials."""
    if len(record.objectives) != 1 or not record.evaluated:
        return None
    objective = record.objectives[0]
    means = [over_seeds(trial) for trial in record.evaluated]
    ranked = sorted(means, key=lambda trial: -objective.oriented(trial.value(objective.metric) or 0.0))
    shown = ranked[:_MOST_RANKED]
    baseline = next((trial for trial in ranked if trial.number == 0), None)
    if baseline is not None and baseline not in shown:
        shown = [*shown[:-1], baseline]
    with style(**{"axes.grid.axis": "x"}):
        figure = new_figure(8.4, 1.5 + 0.24 * len(shown))
        axes = figure.add_subplot()
        _draw(axes, shown, objective, set(record.selected) - {0})
        if baseline is not None:
            value = (baseline.value(objective.metric) or 0.0) * axis_scale(objective.metric)
            axes.axvline(value, color=BASELINE, lw=0.8, ls=(0, (4, 4)))
        axes.set_yticks(range(len(shown)), [str(trial.architecture) for trial in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.set_xlabel(f"{axis_label(objective.metric)}, {better(objective)}")
        title = _title(record, ranked, len(shown))
        set_title(axes, title, above_legend=True)
        legend_above(axes)
    caption = "Evaluated architectures from best to worst; bars are standard errors."
    return Plot("ranking", caption, f"Ranked dot plot of {metric_name(objective.metric)}: {title}.", figure)


def _draw(axes: Axes, shown: list[Trial], objective: Objective, selected: set[int]) -> None:
    scale = axis_scale(objective.metric)
    groups = (
        ("baseline", BASELINE, "D", {0}),
        ("selected", DELIVERED, "s", selected),
        ("student", STUDENT, "o", {trial.number for trial in shown} - selected - {0}),
    )
    for label, colour, marker, numbers in groups:
        rows = [row for row, trial in enumerate(shown) if trial.number in numbers]
        if not rows:
            continue
        found = [shown[row].measurements[objective.metric] for row in rows]
        axes.errorbar(
            [measurement.value * scale for measurement in found],
            rows,
            xerr=[(measurement.stderr or 0.0) * scale for measurement in found],
            fmt=marker,
            ms=6,
            color=colour,
            elinewidth=1,
            label=label,
        )


def _title(record: RunRecord, ranked: list[Trial], shown: int) -> str:
    name = metric_name(record.objectives[0].metric)
    baseline = next((trial for trial in ranked if trial.number == 0), None)
    if baseline is None:
        title = f"{len(ranked)} architectures by {name}"
    else:
        students = [trial for trial in ranked if trial.number]
        winners = sum(beats(trial, baseline, record.objectives) for trial in students)
        title = headline(winners, len(students), name)
    return title if shown == len(ranked) else f"{title}; the best {shown} are shown"
