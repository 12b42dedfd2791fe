"""Figure, table and sentences of Tables 3 and 4, all from the figures of `finetuning_matrix.results` alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t

from flashdistill.core.scatter import pooled_deviation
from flashdistill.delivery.plot_style import BASELINE, DELIVERED, INK, MUTED, OTHER, STUDENT, new_figure, style
from flashdistill.delivery.task_tables import score_text
from flashdistill.delivery.verdict import joined
from flashdistill.evaluation.finetuning.metrics import TASK_METRICS
from flashdistill.evaluation.finetuning.scores import Spread
from flashdistill.evaluation.rank_fidelity import agreement
from reproduce.finetuning_matrix import Found, means

COLOURS = {
    "teacher": INK,
    "two-stage": DELIVERED,
    "best": STUDENT,
    "student": STUDENT,
    "baseline": BASELINE,
    "from scratch": OTHER,
}
MARKERS = {"teacher": "s", "two-stage": "P", "baseline": "D", "from scratch": "X"}

Key = tuple[str, str, str]
"""Task, split, metric."""


def leading(found: Found) -> list[Key]:
    """Of every task and split the metric that selects: what the figure shows and the sentences compare."""
    first = {task["name"]: task["selecting"][1] for task in found["tasks"]}
    return [key for key in means(found) if key[2] == first[key[0]]]


def draw(found: Found) -> Figure:
    """A panel for each task: every model's mean with a 95 % interval, and its seeds."""
    keys, names = leading(found), [row["name"] for row in found["rows"]]
    with style():
        figure = new_figure(3.0 + 2.9 * max(len(keys), 2), 1.3 + 0.34 * len(names))
        panels = np.atleast_1d(figure.subplots(1, len(keys), sharey=True))
        for axes, key in zip(panels, keys, strict=True):
            _panel(axes, found, key)
        panels[0].set_yticks(range(len(names)), [_title(row) for row in found["rows"]])
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        for label, row in zip(panels[0].get_yticklabels(), found["rows"], strict=True):
            label.set_color(COLOURS[row["role"]])
            label.set_fontweight("bold" if row["role"] in ("best", "baseline", "two-stage") else "normal")
    return figure


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['name']} (baseline)" if row["role"] == "baseline" else row["name"]


def _panel(axes: Axes, found: Found, key: Key) -> None:
    task, split, metric = key
    values, factor = means(found)[key], _factor(metric)
    deviation = _deviation(values)
    for place, row in enumerate(found["rows"]):
        own = [factor * value for value in values.get(row["name"], [])]
        if not own:
            continue
        colour = COLOURS[row["role"]]
        axes.plot(own, [place] * len(own), "o", ms=3.2, color=colour, alpha=0.35, mew=0, zorder=2)
        half = 1.96 * factor * deviation / len(own) ** 0.5 if deviation is not None else None
        axes.errorbar(
            statistics.fmean(own),
            place,
            xerr=half,
            fmt=MARKERS.get(row["role"], "o"),
            ms=6,
            color=colour,
            elinewidth=1.1,
            zorder=3,
        )
    level = next(one["chance"] for one in found["tasks"] if one["name"] == task)
    if level is not None and metric == "accuracy":
        axes.axvline(factor * level, color=MUTED, lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            "always the commonest class",
            (factor * level, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=7.5,
            color=MUTED,
        )
    axes.margins(x=0.08)
    axes.grid(axis="y", visible=False)
    unit = " (%)" if factor > 1 else ""
    axes.set_xlabel(f"{TASK_METRICS[metric].title}{unit}, {split.replace('_', ' ')} rows")
    axes.set_title(task)


def _factor(metric: str) -> float:
    return 100.0 if TASK_METRICS[metric].unit == "fraction" else 1.0


def _deviation(values: Mapping[str, Sequence[float]]) -> float | None:
    """Between the seeds of a model, pooled over all models."""
    pooled = pooled_deviation(values.values())
    return None if pooled is None else pooled[0]


def markdown_table(found: Found) -> str:
    """Models as rows, tasks as columns: mean ± standard deviation (seeds); averages over one and the same metric."""
    columns, kept = means(found), _averages(found)
    titles = [f"{task}, {split.replace('_', ' ')}, {_metric(metric)}" for task, split, metric in columns]
    titles += [f"average {_metric(metric)} of {count} tasks, {on}" for metric, on, count in kept]
    head = ["model", "parameters", "MLM accuracy [%]", *titles]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in found["rows"]:
        name, accuracy = row["name"], row["mlm_accuracy"]
        cells = [f"`{name}`" + (" (baseline)" if row["role"] == "baseline" else "")]
        cells += [f"{row['parameters']:,}", "–" if accuracy is None else f"{100 * accuracy:.2f}"]
        for (_, _, metric), values in columns.items():
            cells.append(Spread.of(values[name]).text(metric) if values.get(name) else "–")
        for (metric, _, _), by_model in kept.items():
            cells.append(score_text(TASK_METRICS[metric].unit, by_model[name]) if name in by_model else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _metric(metric: str) -> str:
    known = TASK_METRICS[metric]
    return f"{known.title} [%]" if known.unit == "fraction" else known.title


def _averages(found: Found) -> dict[tuple[str, str, int], dict[str, float]]:
    """By (metric, split, number of tasks) and by model."""
    kept: dict[tuple[str, str, int], dict[str, float]] = {}
    for one in found["averages"]:
        kept.setdefault((one["metric"], one["on"], len(one["tasks"])), {})[one["model"]] = one["value"]
    return kept


def sentences(found: Found) -> list[str]:
    """What the figures say, whichever table they are of."""
    return [
        _compared(found, "against_scratch", "The best student by masked words, {best}, is ahead of its own "
                  "architecture from scratch, in as many steps, by {differences}: {verdict}."),
        _compared(found, "two_stages", "Learning from the fine-tuned teacher as well ({best}*) changes its score by "
                  "{differences}: {verdict}."),
        _against_baseline(found),
        _of_the_teacher(found),
        _order(found),
        *(_not_learnt(found, key) for key in leading(found)),
        *(f"Left out: {failure}." for failure in found["failures"]),
    ]  # fmt: skip


def _compared(found: Found, name: str, sentence: str) -> str:
    wanted = leading(found)
    rows = [one for one in found[name] if (one["task"], one["split"], one["metric"]) in wanted]
    if not rows:
        return ""
    parts, clear = [], {1: 0, -1: 0}
    for one in rows:
        spread, unit = Spread(**one["difference"]), TASK_METRICS[one["metric"]].unit
        text = score_text(unit, spread.mean, signed=True)
        if spread.half_width is not None:
            low, high = (score_text(unit, spread.mean + side * spread.half_width) for side in (-1, 1))
            text += f" [{low}, {high}]"
            if abs(spread.mean) > spread.half_width:
                clear[1 if spread.mean > 0 else -1] += 1
        parts.append(f"{text} on {one['task']}")
    seeds = min(one["difference"]["count"] for one in rows)
    verdict = (
        f"with 95 % intervals over {seeds} seeds, it is better beyond chance on {clear[1]} of {len(rows)} and worse on "
        f"{clear[-1]}"
    )
    best = next(row["name"] for row in found["rows"] if row["role"] == "best")
    return sentence.format(best=best, differences=joined(parts), verdict=verdict)


def _not_learnt(found: Found, key: Key) -> str:
    """Where no model is ahead of naming the commonest class by more than the rows explain."""
    task, _, metric = key
    level = next(one["chance"] for one in found["tasks"] if one["name"] == task)
    if level is None or metric != "accuracy":
        return ""
    values = means(found)[key]
    own = [one for one in found["scores"] if (one["task"], one["split"], one["metric"]) == key]
    error = max(one["stderr"] or 0.0 for one in own)
    if any(statistics.fmean(seeds) - level > 2 * error for seeds in values.values()):
        return ""
    return (
        f"On {task} no model is ahead of always naming the commonest class ({level:.1%}) by more than the rows "
        "explain: nothing was learnt there, and the average says that much less."
    )


def overall(found: Found) -> tuple[dict[str, float], dict[str, float]]:
    """By model the mean over all panels of the figure, and its standard error from what seeds change.

    Only over one and the same metric: over several, the first one alone; and only models that have all.
    """
    keys = leading(found)
    keys = [key for key in keys if key[2] == keys[0][2]] if keys else []
    values = {key: means(found)[key] for key in keys}
    names = [row["name"] for row in found["rows"] if all(row["name"] in own for own in values.values())]
    deviations = {key: _deviation(own) or math.nan for key, own in values.items()}
    mean = {name: statistics.fmean(statistics.fmean(values[key][name]) for key in keys) for name in names}
    error = {
        name: math.sqrt(sum(deviations[key] ** 2 / len(values[key][name]) for key in keys)) / len(keys)
        for name in names
    }
    return mean, error


def _freedom(found: Found) -> int:
    """Degrees of freedom of the scatter of seeds, of the panel that has fewest."""
    values = means(found)
    return min(sum(len(own) - 1 for own in values[key].values()) for key in leading(found))


def compared_with_baseline(found: Found) -> dict[str, list[str]] | None:
    """Students ``ahead`` of the baseline, ``behind`` it, or ``level``, beyond the 95 % interval of no difference."""
    (mean, error), roles = overall(found), {row["name"]: row["role"] for row in found["rows"]}
    baseline = next((name for name in mean if roles[name] == "baseline"), None)
    if baseline is None or any(map(math.isnan, error.values())):
        return None
    sides: dict[str, list[str]] = {"ahead": [], "behind": [], "level": []}
    errors = float(t.ppf(0.975, _freedom(found)))
    for name in mean:
        if roles[name] in ("best", "student"):
            gap, margin = mean[name] - mean[baseline], errors * math.hypot(error[name], error[baseline])
            sides["level" if abs(gap) <= margin else "ahead" if gap > 0 else "behind"].append(name)
    return sides


def _against_baseline(found: Found) -> str:
    sides = compared_with_baseline(found)
    if sides is None:
        return ""
    ahead, behind, level = (_named(sides[side]) for side in ("ahead", "behind", "level"))
    return (
        f"Of the students, ahead of the baseline {_over(found)} are {ahead}, behind it {behind}, within what seeds "
        f"change {level}."
    )


def _over(found: Found) -> str:
    keys = leading(found)
    shared = [key for key in keys if key[2] == keys[0][2]]
    title = TASK_METRICS[keys[0][2]].title
    return f"in {title}" if len(shared) == 1 else f"in the average {title} of {len(shared)} columns"


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} ({joined(names)})" if names else "none"


def _of_the_teacher(found: Found) -> str:
    mean, _ = overall(found)
    by_role = {row["role"]: row for row in found["rows"]}
    teacher, best = by_role["teacher"], by_role["best"]
    if teacher["name"] not in mean or best["name"] not in mean:
        return ""
    share = best["parameters"] / teacher["parameters"]
    return (
        f"The best student reaches {mean[best['name']] / mean[teacher['name']]:.0%} of the teacher's score with "
        f"{share:.1%} of its parameters."
    )


def _order(found: Found) -> str:
    """Whether masked-word accuracy, which the search goes by, says which student is good at tasks."""
    mean, _ = overall(found)
    rows = [row for row in found["rows"] if row["role"] in ("best", "student", "baseline") and row["name"] in mean]
    if len(rows) < 3:
        return ""
    tau = agreement(np.array([row["mlm_accuracy"] for row in rows]), np.array([mean[row["name"]] for row in rows]))
    return f"Masked-word accuracy orders the {len(rows)} of them as these tasks do with Kendall's tau {tau:.2f}."
