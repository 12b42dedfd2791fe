"""How well the search's models predict: one panel for each metric."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from flashdistill.core.health import PredictionQuality
from flashdistill.delivery.formatting import axis_label, axis_scale, capitalized, metric_name
from flashdistill.delivery.health_text import decimal
from flashdistill.delivery.plot_style import BASELINE, OTHER, PAPER, STUDENT, Plot, new_figure, style
from flashdistill.delivery.record import RunRecord

_COLUMNS = 3
_LEAST_POINTS = 3
_NARROW = 3.0
"""Ratio of the ends of a logarithmic axis up to which evenly spaced ticks suit it."""


def predictions_plot(record: RunRecord) -> Plot | None:
    """Predicted against observed values, each predicted without itself; None without predictions."""
    health = record.health
    shown = [one for one in health.predictions if len(one.observed) >= _LEAST_POINTS] if health else []
    if not shown:
        return None
    columns = min(_COLUMNS, max(len(shown), 2))
    rows = math.ceil(len(shown) / columns)
    with style():
        figure = new_figure(8.4, 0.5 + (4.1 if columns == 2 else 3.1) * rows)
        grid = figure.subplots(rows, columns, squeeze=False).flat
        panels = list(grid)
        for axes, one in zip(panels, shown, strict=False):
            _draw(axes, one)
        for axes in panels[len(shown) :]:
            axes.remove()
        entries = {
            label: handle
            for axes in panels[: len(shown)]
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3)
    caption = (
        "Each architecture is predicted by models of all the others; bars are two standard deviations of the "
        "prediction. On the diagonal the prediction is right; a level cloud says that the model has learnt nothing."
    )
    names = "; ".join(f"{metric_name(one.metric)} with R² {decimal(one.r2)}" for one in shown)
    return Plot("predictions", caption, f"Scatter plots of predicted against observed values: {names}.", figure)


def _draw(axes: Axes, one: PredictionQuality) -> None:
    scale = axis_scale(one.metric)
    rows = [
        (observed * scale, predicted * scale, low * scale, high * scale)
        for observed, predicted, low, high in zip(one.observed, one.predicted, one.low, one.high, strict=True)
    ]
    if one.logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    inside = [row for row in rows if row[2] <= row[0] <= row[3]]
    outside = [row for row in rows if not row[2] <= row[0] <= row[3]]
    for label, group, colour in (("within two deviations", inside, STUDENT), ("outside", outside, BASELINE)):
        if group:
            axes.errorbar(
                [row[0] for row in group],
                [row[1] for row in group],
                yerr=[[row[1] - row[2] for row in group], [row[3] - row[1] for row in group]],
                fmt="o" if group is inside else "s",
                ms=4.5,
                color=colour,
                mfc=PAPER,
                mew=1.2,
                elinewidth=0.7,
                label=label,
                zorder=3,
            )
    limits = _limits(one, rows)
    axes.plot(limits, limits, color=OTHER, lw=0.9, ls=(0, (4, 4)), zorder=1, label="prediction = observation")
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_box_aspect(1)
    _ticks(axes, one)
    axes.set_title(
        f"{capitalized(metric_name(one.metric))}\nR² {decimal(one.r2)}, rank correlation {decimal(one.tau)}",
        fontsize=9.5,
    )
    axes.set_xlabel(f"Observed {_decapitalized(axis_label(one.metric))}")
    axes.set_ylabel("Predicted", rotation_mode="anchor")


def _decapitalized(text: str) -> str:
    """A label within a label; abbreviations such as ``MLM accuracy`` keep their capitals."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _limits(one: PredictionQuality, rows: list[tuple[float, float, float, float]]) -> tuple[float, float]:
    """Of both axes; they hold the points, and of the longest bars what fits."""
    centres = [value for row in rows for value in row[:2]]
    low, high = min(centres), max(centres)
    if one.logarithmic and low > 0:
        margin = max(0.15 * math.log(high / low), 0.02)
        return low * math.exp(-margin), high * math.exp(margin)
    margin = max(0.15 * (high - low), 0.01 * abs(high), 1e-9)
    return low - margin, high + margin


def _ticks(axes: Axes, one: PredictionQuality) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        if one.logarithmic:
            # Round numbers read better than powers of ten, of which a metric rarely spans two.
            narrow = axis.get_view_interval()[1] < _NARROW * axis.get_view_interval()[0]
            axis.set_major_locator(MaxNLocator(nbins=4) if narrow else LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(ScalarFormatter())
        else:
            axis.set_major_locator(MaxNLocator(nbins=5))
