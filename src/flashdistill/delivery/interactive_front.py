"""The Pareto front for plotly.js: the same contents as `front_plot`, with zoom and tooltips.

The figure is plain data. Its colours are names of CSS variables, which the report's script
replaces by their values, again whenever the reader's theme changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

from flashdistill.core.measurement import Objective
from flashdistill.core.trial import Trial
from flashdistill.delivery.formatting import axis_label, format_measurement, format_share, metric_name
from flashdistill.delivery.front_data import FrontData, Point, front_data
from flashdistill.delivery.front_plot import better
from flashdistill.delivery.plot_style import (
    BASELINE,
    CSS_VARIABLES,
    DELIVERED,
    GRID,
    INK,
    MUTED,
    OTHER,
    PAPER,
    SHADE,
    STUDENT,
)
from flashdistill.delivery.record import Measurements, RunRecord
from flashdistill.delivery.winners import training_runs

Json = dict[str, Any]


def interactive_front(record: RunRecord) -> Json | None:
    """``{"title": text, "data": traces, "layout": layout}``; None without a front to plot.

    The page shows the title, which plotly.js would not wrap on a narrow screen.
    """
    data = front_data(record)
    if data is None:
        return None
    traces = [_staircase(data), *_trials(data), *_delivered(data), *_stopped(data), *_untrained(data)]
    return {"title": data.title, "data": [trace for trace in traces if trace], "layout": _layout(data)}


def _color(colour: str) -> str:
    return f"var({CSS_VARIABLES[colour]})"


def _hover(title: str, measurements: Measurements, remark: str = "") -> str:
    """A tooltip; plotly reads it as HTML, so everything variable is escaped."""
    lines = [f"<b>{escape(title)}</b>"]
    lines += [f"{escape(metric_name(name))}: {escape(format_measurement(item))}" for name, item in measurements.items()]
    return "<br>".join([*lines, *([escape(remark)] if remark else [])])


def _scatter(name: str, points: Sequence[Point], hovers: Sequence[str], marker: Json) -> Json:
    error = {"thickness": 1, "width": 0, "color": marker["line"]["color"]}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "error_x": {"type": "data", "array": [point.x_error for point in points], **error},
        "error_y": {"type": "data", "array": [point.y_error for point in points], **error},
        "marker": marker,
        "hovertext": list(hovers),
        "hoverinfo": "text",
    }


def _marker(symbol: str, colour: str, size: float, *, hollow: bool = False) -> Json:
    face = _color(PAPER) if hollow else _color(colour)
    return {"symbol": symbol, "size": size, "color": face, "line": {"color": _color(colour), "width": 1.8}}


def _staircase(data: FrontData) -> Json | None:
    corners = data.staircase
    if len(corners) < 2:
        return None
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in corners],
        "y": [y for _, y in corners],
        "line": {"color": _color(STUDENT), "width": 1.8},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _trials(data: FrontData) -> list[Json]:
    traces = []
    if data.single_seeds:
        hovers = [escape(f"{point.architecture}, one training seed") for point in data.single_seeds]
        dots = [replace(point, x_error=0.0, y_error=0.0) for point in data.single_seeds]
        traces.append(_scatter("one seed", dots, hovers, _marker("circle", OTHER, 4)))
    front = [(trial, point) for trial, point in data.front if trial.number]
    for name, group, hollow in (("evaluated", data.others, True), ("on the front", front, False)):
        if group:
            hovers = [
                _hover(f"{trial.number}: {trial.architecture}", trial.measurements, _seeds_remark(trial))
                for trial, _ in group
            ]
            marker = _marker("circle", STUDENT, 9, hollow=hollow)
            traces.append(_scatter(name, [point for _, point in group], hovers, marker))
    if data.baseline is not None and data.baseline_trial is not None:
        remark = _seeds_remark(data.baseline_trial)
        hover = _hover(f"baseline {data.baseline.architecture}", data.baseline_trial.measurements, remark)
        traces.append(_scatter("baseline", [data.baseline], [hover], _marker("diamond", BASELINE, 10)))
    return traces


def _seeds_remark(trial: Trial) -> str:
    return f"mean of {training_runs(trial)} training seeds" if trial.confirmations else ""


def _stopped(data: FrontData) -> list[Json]:
    if not data.stopped:
        return []
    places = [data.inside(one.point) for one in data.stopped]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "stopped early",
            "x": [x for x, _ in places],
            "y": [y for _, y in places],
            "marker": _marker("triangle-down", OTHER, 10, hollow=True),
            "cliponaxis": False,
            "hovertext": [
                _hover(
                    f"{one.trial.number}: {one.trial.architecture}",
                    {**one.trial.measurements, **one.trial.curve[one.share]},
                    f"stopped after {format_share(one.share)} of its training: {_short(one.trial.reason)}",
                )
                for one in data.stopped
            ],
            "hoverinfo": "text",
        }
    ]


def _untrained(data: FrontData) -> list[Json]:
    if not data.untrained:
        return []
    low, high = data.limits[:2]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "not evaluated",
            "x": [min(max(value, low), high) for _, value in data.untrained],
            "y": [data.bottom] * len(data.untrained),
            "marker": _marker("circle-open", OTHER, 9),
            "cliponaxis": False,
            "hovertext": [
                _hover(
                    f"{trial.number}: {trial.architecture}",
                    trial.measurements,
                    f"{trial.state}: {_short(trial.reason)}",
                )
                for trial, _ in data.untrained
            ],
            "hoverinfo": "text",
        }
    ]


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _delivered(data: FrontData) -> list[Json]:
    traces = []
    for name, symbol, colour, is_baseline in (
        ("delivered", "square", DELIVERED, False),
        ("baseline, full distillation", "diamond", BASELINE, True),
    ):
        group = [(model, end) for model, _, end in data.moves if model.is_baseline is is_baseline]
        if group:
            hovers = [_hover(f"{name} {model.architecture}", model.measurements) for model, _ in group]
            trace = _scatter(name, [end for _, end in group], hovers, _marker(symbol, colour, 10))
            traces.append(trace | {"showlegend": not is_baseline})
    return traces


def _layout(data: FrontData) -> Json:
    low, high, bottom, top = data.limits
    axis = {
        "gridcolor": _color(GRID),
        "linecolor": _color(OTHER),
        "tickfont": {"color": _color(MUTED)},
        "zeroline": False,
        "showline": True,
    }
    return {
        "font": {"color": _color(INK), "family": "var(--sans)", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": _color(PAPER), "font": {"color": _color(INK)}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": _color(OTHER), "activecolor": _color(INK)},
        "margin": {"l": 64, "r": 12, "t": 60, "b": 56},
        "height": 540,
        "xaxis": axis | {"range": [low, high], "title": _axis_title(data.x)},
        "yaxis": axis | {"range": [bottom, top], "title": _axis_title(data.y)},
        "shapes": _baseline_shapes(data),
        "annotations": _arrows(data),
    }


def _axis_title(objective: Objective) -> Json:
    return {"text": f"{axis_label(objective.metric)}, {better(objective)}", "font": {"size": 13}}


def _baseline_shapes(data: FrontData) -> list[Json]:
    if data.baseline is None:
        return []
    x, y, (worse_x, worse_y) = data.baseline.x, data.baseline.y, data.worst_corner
    dash = {"color": _color(BASELINE), "width": 1, "dash": "dash"}
    return [
        {
            "type": "rect",
            "x0": x,
            "x1": worse_x,
            "y0": y,
            "y1": worse_y,
            "fillcolor": _color(SHADE),
            "opacity": 0.7,
            "line": {"width": 0},
            "layer": "below",
        },
        {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": dash, "layer": "below"},
        {"type": "line", "y0": y, "y1": y, "x0": 0, "x1": 1, "xref": "paper", "line": dash, "layer": "below"},
    ]


def _arrows(data: FrontData) -> list[Json]:
    return [
        {
            "x": end.x,
            "y": end.y,
            "ax": start.x,
            "ay": start.y,
            "xref": "x",
            "yref": "y",
            "axref": "x",
            "ayref": "y",
            "text": "",
            "showarrow": True,
            "arrowhead": 2,
            "arrowwidth": 1.4,
            "arrowcolor": _color(BASELINE if model.is_baseline else DELIVERED),
            "standoff": 7,
            "startstandoff": 7,
        }
        for model, start, end in data.moves
        if start is not None
    ]
