"""The Pareto front as a drawing; the interactive one is `interactive_front`."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from flashdistill.core.measurement import Objective
from flashdistill.delivery.formatting import axis_label
from flashdistill.delivery.front_data import FrontData, front_data
from flashdistill.delivery.plot_labels import Label, place_labels
from flashdistill.delivery.plot_style import (
    BASELINE,
    DELIVERED,
    INK,
    OTHER,
    PAPER,
    SHADE,
    STUDENT,
    Plot,
    legend_above,
    new_figure,
    set_title,
    style,
)
from flashdistill.delivery.record import RunRecord

_MOST_LABELS = 10


def better(objective: Objective) -> str:
    """In which direction of the axis the objective improves."""
    return "higher is better" if objective.goal == "maximize" else "lower is better"


def front_plot(record: RunRecord) -> Plot | None:
    """All trials in the first two objectives, the front, the baseline and what became of the delivered.

    None where there is nothing to draw; one objective is drawn by `ranking_plot`.
    """
    data = front_data(record)
    if data is None:
        return None
    with style():
        figure = new_figure(8.4, 5.4)
        axes = figure.add_subplot()
        set_title(axes, data.title, above_legend=True)
        axes.set_xlim(data.limits[0], data.limits[1])
        axes.set_ylim(data.limits[2], data.limits[3])
        axes.set_xlabel(f"{axis_label(data.x.metric)}, {better(data.x)}")
        axes.set_ylabel(f"{axis_label(data.y.metric)}, {better(data.y)}", rotation_mode="anchor")
        _draw_baseline(axes, data)
        _draw_trials(axes, data)
        _draw_stopped(axes, data)
        _draw_untrained(axes, data)
        _draw_delivered(axes, data)
        legend_above(axes)
        place_labels(axes, _labels(data), _obstacles(data))
    return Plot("front", front_caption(data), data.alt, figure)


def front_caption(data: FrontData) -> str:
    """How to read the plot."""
    parts = ["Each point is one architecture; bars are standard errors."]
    if data.baseline is not None:
        parts.append("The shaded area holds what the baseline beats in both objectives.")
    if any(start for _, start, _ in data.moves):
        parts.append("Arrows lead from the search's short distillation to the full one of the delivered models.")
    if data.single_seeds:
        parts.append("Architectures trained from several seeds stand at their mean; dots are the single runs.")
    if data.stopped:
        parts.append("Triangles are students stopped early, where they were last scored or at the edge next to it.")
    if data.untrained:
        parts.append("Circles at the lower edge are architectures that were measured but not evaluated.")
    return " ".join(parts)


def _draw_baseline(axes: Axes, data: FrontData) -> None:
    if data.baseline is None:
        return
    worse_x, worse_y = data.worst_corner
    x, y = data.baseline.x, data.baseline.y
    axes.add_patch(Rectangle((x, y), worse_x - x, worse_y - y, color=SHADE, alpha=0.7, lw=0, zorder=0.5))
    axes.axvline(x, color=BASELINE, lw=0.8, ls=(0, (4, 4)), zorder=1)
    axes.axhline(y, color=BASELINE, lw=0.8, ls=(0, (4, 4)), zorder=1)
    axes.errorbar(
        x,
        y,
        xerr=data.baseline.x_error,
        yerr=data.baseline.y_error,
        fmt="D",
        ms=7,
        color=BASELINE,
        elinewidth=1,
        label="baseline",
        zorder=5,
    )


def _draw_trials(axes: Axes, data: FrontData) -> None:
    if corners := data.staircase:
        axes.plot(*zip(*corners, strict=True), color=STUDENT, lw=1.4, alpha=0.8, zorder=2)
    if data.single_seeds:
        axes.plot(
            [point.x for point in data.single_seeds],
            [point.y for point in data.single_seeds],
            "o",
            ms=2.6,
            color=OTHER,
            mew=0,
            label="one seed",
            zorder=2.8,
        )
    groups = (
        ("on the front", [point for trial, point in data.front if trial.number], STUDENT, STUDENT),
        ("evaluated", [point for _, point in data.others], STUDENT, PAPER),
    )
    for label, points, colour, face in groups:
        if points:
            axes.errorbar(
                [point.x for point in points],
                [point.y for point in points],
                xerr=[point.x_error for point in points],
                yerr=[point.y_error for point in points],
                fmt="o",
                ms=6,
                color=colour,
                mfc=face,
                mew=1.4,
                ecolor=colour,
                elinewidth=0.8,
                label=label,
                zorder=3,
            )


def _draw_stopped(axes: Axes, data: FrontData) -> None:
    if data.stopped:
        axes.plot(
            *zip(*(data.inside(one.point) for one in data.stopped), strict=True),
            "v",
            ms=6,
            mfc=PAPER,
            color=OTHER,
            mew=1.3,
            label="stopped early",
            zorder=2.5,
            clip_on=False,
        )


def _draw_untrained(axes: Axes, data: FrontData) -> None:
    if not data.untrained:
        return
    low, high = data.limits[:2]
    inside = [value for _, value in data.untrained if low <= value <= high]
    at_edge = axes.get_xaxis_transform()
    axes.plot(
        inside, [0.02] * len(inside), "o", ms=5.5, mfc="none", color=OTHER, transform=at_edge, label="not evaluated"
    )
    for edge, marker, beyond in (
        (high, ">", any(value > high for _, value in data.untrained)),
        (low, "<", any(value < low for _, value in data.untrained)),
    ):
        if beyond:
            axes.plot(edge, 0.02, marker, ms=6, mfc="none", color=OTHER, transform=at_edge, clip_on=False)


def _draw_delivered(axes: Axes, data: FrontData) -> None:
    labelled = False
    for model, start, end in data.moves:
        colour = BASELINE if model.is_baseline else DELIVERED
        if start is not None:
            axes.annotate(
                "",
                (end.x, end.y),
                (start.x, start.y),
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.1, "shrinkA": 6, "shrinkB": 5, "alpha": 0.8},
            )
        axes.errorbar(
            end.x,
            end.y,
            xerr=end.x_error,
            yerr=end.y_error,
            fmt="D" if model.is_baseline else "s",
            ms=6.5,
            color=colour,
            elinewidth=0.8,
            label=None if labelled or model.is_baseline else "delivered",
            zorder=4,
        )
        labelled = labelled or not model.is_baseline


def _labels(data: FrontData) -> list[Label]:
    """Names of the baseline, of the delivered at their end, and of the rest of the front."""
    named = {model.architecture for model, _, _ in data.moves}
    labels = [
        Label(
            end.x,
            end.y,
            f"baseline {model.architecture}" if model.is_baseline else str(model.architecture),
            BASELINE if model.is_baseline else DELIVERED,
            bold=True,
        )
        for model, _, end in data.moves
    ]
    if data.baseline and data.baseline.architecture not in named:
        labels.append(Label(data.baseline.x, data.baseline.y, f"baseline {data.baseline.architecture}", BASELINE, True))
    rest = [point for trial, point in data.front if trial.number and point.architecture not in named]
    # A long front is named at even intervals, its two ends included.
    room = max(_MOST_LABELS - len(labels), 2)
    step = max((len(rest) - 1) / (room - 1), 1.0)
    chosen = {round(index * step) for index in range(room)}
    rest.sort(key=lambda point: point.x)
    return labels + [Label(p.x, p.y, str(p.architecture), INK) for i, p in enumerate(rest) if i in chosen]


def _obstacles(data: FrontData) -> list[tuple[float, float]]:
    points = [(point.x, point.y) for _, point in (*data.front, *data.others)]
    points += [(point.x, point.y) for point in data.single_seeds]
    points += [data.inside(one.point) for one in data.stopped]
    if data.baseline:
        points.append((data.baseline.x, data.baseline.y))
    for _, start, end in data.moves:
        points.append((end.x, end.y))
        if start:
            # Along the arrow, so that labels keep off it.
            points += [
                (start.x + part / 8 * (end.x - start.x), start.y + part / 8 * (end.y - start.y)) for part in range(8)
            ]
    for (x, y), (next_x, next_y) in pairwise(data.staircase):
        points += [(x + part / 8 * (next_x - x), y + part / 8 * (next_y - y)) for part in range(8)]
    return points + [(value, data.bottom) for _, value in data.untrained]
