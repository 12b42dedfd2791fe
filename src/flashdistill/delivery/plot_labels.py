"""Text beside points, placed so that nothing is written over anything else.

Greedy placement: each label tries places around its point, near ones first, and takes the one
that covers least; a label for which every place covers another label is not drawn, as a plot
with a few names missing reads better than one with names on top of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from flashdistill.delivery.plot_style import PAPER

_ANGLES = (90, 45, 135, 0, 180, 315, 225, 270)
"""Directions from a point to its label in degrees, the preferred first."""
_DISTANCES = (7.0, 12.0, 20.0, 30.0, 44.0)
"""From the point to the label's edge, in typographic points."""
_MARGIN = 1.5


@dataclass(frozen=True)
class Label:
    """A text for the point (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    color: str
    bold: bool = False


def place_labels(
    axes: Axes, labels: Sequence[Label], points: Sequence[tuple[float, float]], size: float = 8.5
) -> list[Label]:
    """Write the labels, the first with the widest choice, around the points of a finished plot.

    Args:
        points: everything drawn that a label should not cover, in data coordinates.

    Returns:
        The labels for which there was room.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return []
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # the layout engine decides where the axes are
    renderer = canvas.get_renderer()
    pixel = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    radius = 4.5 * pixel
    dots = [_square(axes.transData.transform(point), radius) for point in points]
    taken: list[Bbox] = []
    placed = []
    for label in labels:
        text = _write(axes, label, size)
        box = text.get_window_extent(renderer)
        anchor = axes.transData.transform((label.x, label.y))
        found = _best_place(anchor, box.width, box.height, pixel, frame, dots, taken)
        if found is None:
            text.remove()
            continue
        offset, place, far = found
        text.set_position((offset[0] / pixel, offset[1] / pixel))
        if far:
            axes.annotate(
                "",
                (label.x, label.y),
                xytext=(offset[0] / pixel, offset[1] / pixel),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": label.color, "lw": 0.6, "shrinkA": 6, "shrinkB": 4},
            ).set_in_layout(False)
        taken.append(place)
        placed.append(label)
    return placed


def _write(axes: Axes, label: Label, size: float) -> Annotation:
    """The label's text on its point; it does not take part in the layout, which is settled."""
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=size,
        color=label.color,
        fontweight="bold" if label.bold else "normal",
        ha="center",
        va="center",
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
        annotation_clip=False,
        zorder=6,
    )
    text.set_in_layout(False)
    return text


def _best_place(
    anchor: np.ndarray,
    width: float,
    height: float,
    pixel: float,
    frame: Bbox,
    dots: Sequence[Bbox],
    taken: Sequence[Bbox],
) -> tuple[tuple[float, float], Bbox, bool] | None:
    """Offset of the label's centre from its point in pixels, its box, whether it needs a line."""
    best: tuple[float, tuple[float, float], Bbox, bool] | None = None
    for ring, distance in enumerate(_DISTANCES):
        for preference, angle in enumerate(_ANGLES):
            x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            offset = (x * (distance * pixel + width / 2), y * (distance * pixel + height / 2))
            box = Bbox.from_bounds(
                anchor[0] + offset[0] - width / 2, anchor[1] + offset[1] - height / 2, width, height
            ).padded(_MARGIN * pixel)
            if not _inside(box, frame) or any(box.overlaps(other) for other in taken):
                continue
            cost = 100.0 * sum(box.overlaps(dot) for dot in dots) + 10.0 * ring + preference
            if best is None or cost < best[0]:
                best = (cost, offset, box, distance >= 20)
    return best[1:] if best else None


def _square(centre: Sequence[float] | np.ndarray, radius: float) -> Bbox:
    x, y = centre
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)


def _inside(box: Bbox, frame: Bbox) -> bool:
    return box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
