"""All plots of a report, and their PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flashdistill.core.files import atomic_path
from flashdistill.delivery.front_plot import front_plot
from flashdistill.delivery.health_plots import predictions_plot
from flashdistill.delivery.history_plots import costs_plot, curves_plot, history_plot
from flashdistill.delivery.plot_style import Plot
from flashdistill.delivery.ranking_plot import ranking_plot
from flashdistill.delivery.record import RunRecord

PLOTS: dict[str, Callable[[RunRecord], Plot | None]] = {
    "front": front_plot,
    "ranking": ranking_plot,
    "history": history_plot,
    "predictions": predictions_plot,
    "curves": curves_plot,
    "costs": costs_plot,
}
"""Each makes the plot of its name, or None where the record has nothing for it."""

_DOTS_PER_INCH = 160


def make_plots(record: RunRecord) -> dict[str, Plot]:
    """The plots for which the record has data, by name."""
    plots = {name: make(record) for name, make in PLOTS.items()}
    return {name: plot for name, plot in plots.items() if plot is not None}


def write_plots(plots: dict[str, Plot], directory: Path) -> list[Path]:
    """Write ``NAME.png`` for each plot; of an earlier report, remove those without a successor.

    Returns:
        The files written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plot in plots.items():
        path = directory / f"{name}.png"
        with atomic_path(path) as temporary:
            plot.figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH)
        written.append(path)
    for name in set(PLOTS) - set(plots):
        (directory / f"{name}.png").unlink(missing_ok=True)
    return written
