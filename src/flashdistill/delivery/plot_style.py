"""The look shared by all plots, and their form inside an HTML page.

Colours are named by what they stand for and differ in lightness as well as in hue (after the
palette of Okabe and Ito), so that they stay apart for colour-blind readers and in grey print.
In HTML the names become CSS variables, by which one drawing serves light and dark pages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#1f2328"
MUTED = "#59636e"
GRID = "#d8dee4"
PAPER = "#fefefe"
STUDENT = "#0072b2"
BASELINE = "#d55e00"
DELIVERED = "#00815e"
OTHER = "#8c959f"
SHADE = "#e7eaee"
SERIES = {
    "#2a6f97": "white",
    "#e9b44c": "black",
    "#4a8c6f": "white",
    "#cf8fb0": "black",
    "#7fb7dc": "black",
    "#a8501f": "white",
    "#717a84": "white",
}
"""Fillings without a fixed meaning (the phases of a run), each with the ink that is read on it.

None is a colour of `CSS_VARIABLES`: they are the same on light and dark pages.
"""

CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    STUDENT: "--student",
    BASELINE: "--baseline",
    DELIVERED: "--delivered",
    OTHER: "--other",
    SHADE: "--shade",
}
"""The CSS variable that replaces a colour in HTML; the report's style sheet defines both themes."""

LAST_IN_LEGEND = ("one seed", "stopped early", "not evaluated")
"""What is drawn early, or aside, and matters least."""

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": OTHER,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PAPER,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Plot:
    """A drawing with what a reader needs who cannot see it.

    Attributes:
        name: stem of its file, unique in a report.
        caption: how to read it, one or two sentences.
        alt: what is seen, for screen readers.
    """

    name: str
    caption: str
    alt: str
    figure: Figure


@contextmanager
def style(**changes: object) -> Iterator[None]:
    """Create artists in the common look; settings outside the block are untouched."""
    with rc_context({**_STYLE, **changes}):  # type: ignore[arg-type]
        yield


def new_figure(width: float = 8.4, height: float = 4.8) -> Figure:
    """An empty figure (inches) that draws without a display; to be called inside `style`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(axes: Axes, text: str, *, above_legend: bool = False) -> None:
    """A title at the left edge, with room for one row of legend below it if asked."""
    axes.set_title(text, pad=30 if above_legend else 10)


def legend_above(axes: Axes, columns: int = 6) -> None:
    """The legend as one row between the title and the axes."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: labels[index] in LAST_IN_LEGEND)
    axes.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        borderaxespad=0.3,
        handletextpad=0.4,
        columnspacing=1.4,
    )


def inline_svg(plot: Plot) -> str:
    """The plot as an ``<svg>`` element for HTML: themed, labelled, its ids unique in the page."""
    buffer = io.StringIO()
    with style(**{"svg.hashsalt": plot.name}):
        plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Its rule would apply to the whole page; the report's style sheet has the same for .plot.
    text = re.sub(r"\s*<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{plot.name}-", text)
    for colour, variable in CSS_VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"(font: [^;\"']*?px|font-family:) [^;\"]*", r"\1 var(--sans)", text)
    head = f'<svg class="plot" role="img" aria-label="{escape(plot.alt, quote=True)}"'
    text = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", text, count=1)
    return text.replace("<svg", head, 1)
