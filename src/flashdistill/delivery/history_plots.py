"""How the search went, what it cost and how the models learnt."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flashdistill.core.measurement import Objective
from flashdistill.core.trial import TrialState
from flashdistill.delivery.formatting import (
    axis_label,
    axis_scale,
    capitalized,
    format_seconds,
    format_share,
    metric_name,
)
from flashdistill.delivery.plot_style import (
    BASELINE,
    DELIVERED,
    OTHER,
    PAPER,
    SERIES,
    STUDENT,
    Plot,
    legend_above,
    new_figure,
    set_title,
    style,
)
from flashdistill.delivery.record import LearningCurve, RunRecord

_SMALLEST_LABELLED_SHARE = 0.06


def history_plot(record: RunRecord) -> Plot | None:
    """Hypervolume and every objective by trial; None before the first evaluated trial."""
    if not record.evaluated:
        return None
    volumes = [(index, value) for index, value in enumerate(record.hypervolume) if value is not None]
    panels = len(record.objectives) + bool(volumes)
    with style():
        figure = new_figure(8.4, 0.7 + 2.0 * panels)
        grid = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        rows = list(grid)
        if volumes:
            axes = rows.pop(0)
            axes.step(*zip(*volumes, strict=True), where="post", color=STUDENT, lw=1.6)
            axes.set_title("Hypervolume dominated by the front", fontsize=10)
            axes.set_ylim(bottom=0)
        for axes, objective in zip(rows, record.objectives, strict=True):
            _draw_objective(axes, record, objective)
        grid[-1].set_xlabel("Trial (0 is the baseline)")
        grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        entries = {
            label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=5)
    names = [*(["hypervolume"] if volumes else []), *(metric_name(item.metric) for item in record.objectives)]
    caption = "Points are trials in the order in which they were suggested; the line is the best value so far."
    return Plot("history", caption, f"Search history by trial: {', '.join(names)}.", figure)


def _draw_objective(axes: Axes, record: RunRecord, objective: Objective) -> None:
    scale = axis_scale(objective.metric)
    evaluated = record.evaluated
    students = [(trial.number, (trial.value(objective.metric) or 0.0) * scale) for trial in evaluated if trial.number]
    stopped = [
        (trial.number, value * scale)
        for trial in record.trials
        if trial.state is TrialState.STOPPED and (value := trial.value(objective.metric)) is not None
    ]
    rest = [
        (trial.number, value * scale)
        for trial in record.trials
        if trial not in evaluated
        and trial.state is not TrialState.STOPPED
        and (value := trial.value(objective.metric)) is not None
    ]
    baseline = record.baseline_trial
    if baseline in evaluated and baseline is not None:
        value = (baseline.value(objective.metric) or 0.0) * scale
        axes.axhline(value, color=BASELINE, lw=0.9, ls=(0, (4, 4)))
        axes.plot(0, value, "D", ms=6, color=BASELINE, label="baseline")
    axes.plot(
        *_columns(_best_so_far(record, objective)), color=STUDENT, lw=1.4, drawstyle="steps-post", label="best so far"
    )
    axes.plot(*_columns(students), "o", ms=5, color=STUDENT, mfc=PAPER, mew=1.3, label="student")
    if stopped:
        axes.plot(*_columns(stopped), "v", ms=5, color=OTHER, mfc=PAPER, mew=1.2, label="stopped early")
    if rest:
        axes.plot(*_columns(rest), "x", ms=5, color=OTHER, label="infeasible or failed")
    axes.set_title(f"{axis_label(objective.metric)}", fontsize=10)


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [index for index, _ in points], [value for _, value in points]


def _best_so_far(record: RunRecord, objective: Objective) -> list[tuple[int, float]]:
    """The best value of the evaluated trials up to each trial, the baseline included."""
    scale = axis_scale(objective.metric)
    line: list[tuple[int, float]] = []
    for trial in sorted(record.evaluated, key=lambda trial: trial.number):
        value = (trial.value(objective.metric) or 0.0) * scale
        if line and objective.oriented(line[-1][1]) > objective.oriented(value):
            value = line[-1][1]
        line.append((trial.number, value))
    last = max((trial.number for trial in record.trials if trial.state is not TrialState.PENDING), default=0)
    return [*line, (last, line[-1][1])] if line and last > line[-1][0] else line


def costs_plot(record: RunRecord) -> Plot | None:
    """Seconds of the whole run by phase, as one bar; None where no costs are known."""
    costs = {phase: seconds for phase, seconds in record.costs.items() if seconds > 0}
    total = sum(costs.values())
    if not costs:
        return None
    with style(**{"axes.grid": False}):
        figure = new_figure(8.4, 1.7)
        axes = figure.add_subplot()
        left = 0.0
        fillings = list(SERIES.items())
        for index, (phase, seconds) in enumerate(costs.items()):
            colour, ink = fillings[index % len(fillings)]
            axes.barh(0, seconds, left=left, height=0.6, color=colour, edgecolor=PAPER, label=phase)
            if seconds >= _SMALLEST_LABELLED_SHARE * total:
                axes.text(
                    left + seconds / 2,
                    0,
                    format_share(seconds / total),
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=9,
                )
            left += seconds
        axes.set_xlim(0, total)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("Seconds")
        longest = max(costs, key=lambda phase: costs[phase])
        title = f"{capitalized(longest)} took {format_share(costs[longest] / total)} of {format_seconds(total)}"
        set_title(axes, title, above_legend=True)
        legend_above(axes, columns=len(costs))
    parts = ", ".join(f"{phase} {format_seconds(seconds)}" for phase, seconds in costs.items())
    return Plot("costs", "Wall-clock time of the run by phase.", f"Stacked bar of the run's time: {parts}.", figure)


def curves_plot(record: RunRecord) -> Plot | None:
    """Training loss by step: one panel per budget; None where no curves were kept."""
    budgets = [
        (budget, kept)
        for budget in ("flash", "regular")
        if (kept := [curve for curve in record.curves if curve.budget == budget and _losses(curve)[0]])
    ]
    if not budgets:
        return None
    delivered = {model.architecture for model in record.delivered}
    with style():
        figure = new_figure(8.4, 3.4)
        grid = figure.subplots(1, len(budgets), squeeze=False)[0]
        for axes, (budget, curves) in zip(grid, budgets, strict=True):
            for curve in sorted(curves, key=lambda curve: curve.architecture in delivered):
                colour, label = _curve_style(record, curve, delivered)
                axes.plot(*_losses(curve), color=colour, lw=1.3 if colour != OTHER else 0.8, label=label)
            axes.set_title(
                "Short distillation of the search" if budget == "flash" else "Full distillation", fontsize=10
            )
            axes.set_xlabel("Optimiser step")
        grid[0].set_ylabel("Training loss", rotation_mode="anchor")
        entries = {
            label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4)
    caption = (
        "The loss falls within each stage and jumps where a stage begins, because each stage has a loss of its own."
    )
    return Plot("curves", caption, f"Learning curves of {len(record.curves)} distillations.", figure)


def _curve_style(record: RunRecord, curve: LearningCurve, delivered: set) -> tuple[str, str]:
    if curve.architecture == record.baseline:
        return BASELINE, "baseline"
    return (DELIVERED, "delivered") if curve.architecture in delivered else (OTHER, "other students")


def _losses(curve: LearningCurve) -> tuple[list[float], list[float]]:
    """Steps and losses, with a gap where the stage changes."""
    steps: list[float] = []
    losses: list[float] = []
    stage: str | None = None
    for point in curve.points:
        if point.loss is None:
            continue
        if stage is not None and point.stage != stage:
            steps.append(float("nan"))
            losses.append(float("nan"))
        steps.append(point.step)
        losses.append(point.loss)
        stage = point.stage
    return steps, losses
