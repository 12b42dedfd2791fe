"""The audit drawn: flash against regular distillation, and how parts of flash rank."""

from __future__ import annotations

from matplotlib.axes import Axes

from flashdistill.core.rank_fidelity import AuditedStudent, RankAudit
from flashdistill.delivery.audit_text import interval
from flashdistill.delivery.formatting import axis_label, axis_scale, metric_name
from flashdistill.delivery.health_text import decimal
from flashdistill.delivery.plot_labels import Label, place_labels
from flashdistill.delivery.plot_style import (
    BASELINE,
    INK,
    MUTED,
    OTHER,
    SHADE,
    STUDENT,
    Plot,
    new_figure,
    set_title,
    style,
)

_NAMED = 3
"""Students at the top by either budget that are named."""


def audit_plot(audit: RankAudit) -> Plot:
    """Scatter of the two budgets; beside it tau over the share of flash, where that is known."""
    with style():
        figure = new_figure(10.4 if audit.shares else 6.2, 4.6)
        if audit.shares:
            left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
            _shares(right, audit)
        else:
            left = figure.subplots()
        _scatter(left, audit)
    caption = (
        "Bars are one standard deviation between seeds, where that is known; the band is the 95\N{NO-BREAK SPACE}% "
        "interval over architectures."
    )
    alt = (
        f"Scatter plot of {metric_name(audit.metric)} of {len(audit.students)} students after flash and after regular "
        f"distillation, Kendall's tau {interval(audit.tau)}."
    )
    return Plot("audit", caption, alt, figure)


def _scatter(axes: Axes, audit: RankAudit) -> None:
    scale = axis_scale(audit.metric)
    flash_error, regular_error = (
        None if noise is None else noise.deviation * scale for noise in (audit.flash_noise, audit.regular_noise)
    )
    groups: tuple[tuple[str, str, str, list[AuditedStudent]], ...] = (
        ("student", STUDENT, "o", [one for one in audit.students if not one.is_baseline]),
        ("baseline", BASELINE, "D", [one for one in audit.students if one.is_baseline]),
    )
    for label, colour, marker, group in groups:
        if group:
            axes.errorbar(
                [one.flash * scale for one in group],
                [one.regular * scale for one in group],
                xerr=flash_error,
                yerr=regular_error,
                fmt=marker,
                ms=5.5,
                color=colour,
                elinewidth=0.7,
                label=label,
                zorder=3,
            )
    axes.set_xlabel(f"{axis_label(audit.metric)} after flash")
    axes.set_ylabel(f"{axis_label(audit.metric)} after regular distillation")
    set_title(axes, f"Flash against regular: τ = {interval(audit.tau)}")
    axes.legend(loc="lower right")
    sign = 1 if audit.goal == "minimize" else -1
    top = [*audit.students[:_NAMED], *sorted(audit.students, key=lambda one: sign * one.flash)[:_NAMED]]
    labels = [
        Label(one.flash * scale, one.regular * scale, str(one.architecture), INK)
        for one in {str(each.architecture): each for each in top}.values()
    ]
    place_labels(axes, labels, [(one.flash * scale, one.regular * scale) for one in audit.students], size=7.5)


def _shares(axes: Axes, audit: RankAudit) -> None:
    shares = [100 * one.share for one in audit.shares]
    values = [one.tau.value for one in audit.shares]
    axes.fill_between(
        shares, [one.tau.low for one in audit.shares], [one.tau.high for one in audit.shares], color=SHADE, lw=0
    )
    axes.plot(shares, values, "o-", color=STUDENT, lw=1.8, ms=5.5, zorder=3)
    if audit.advice.margin is not None:
        lowest = audit.tau.value - audit.advice.margin
        axes.axhline(lowest, color=OTHER, lw=0.9, ls=(0, (4, 4)), zorder=1)
        _beside(axes, lowest, "within noise of the whole", below=True)
    if audit.ceiling is not None:
        axes.axhline(audit.ceiling, color=OTHER, lw=0.9, ls=":", zorder=1)
        _beside(axes, audit.ceiling, f"most that seeds allow, {decimal(audit.ceiling)}")
    axes.set_xlabel("share of flash’s pre-training steps (%)")
    axes.set_ylabel("Kendall’s τ against regular distillation")
    axes.set_ylim(min(-0.05, *(one.tau.low for one in audit.shares)) - 0.03, 1.05)
    axes.set_xlim(0, 104)
    set_title(axes, "How a part of flash ranks")


def _beside(axes: Axes, height: float, text: str, *, below: bool = False) -> None:
    """A remark at the right end of a level line."""
    axes.annotate(
        text,
        (0.98, height),
        (0, -11 if below else 4),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        color=MUTED,
        fontsize=8,
    )
