"""The paper's Table 2: its seven students and MobileBERT, by size, measured latency and MLM accuracy.

Every student is measured on the target beside the baseline, distilled by flash with several seeds
and in full with one, some with two. An interrupted command goes on where it was.

    python -m reproduce.table2 --scale mini
    python -m reproduce.table2 --scale paper --dry-run
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement
from flashdistill.core.scatter import pooled_deviation
from flashdistill.delivery.plot_labels import Label, place_labels
from flashdistill.delivery.plot_style import BASELINE, INK, STUDENT, new_figure, set_title, style
from flashdistill.delivery.verdict import joined
from flashdistill.evaluation.rank_fidelity import agreement
from flashdistill.hardware.machine import fingerprint
from reproduce.plan import Demand, plan_of
from reproduce.scales import PAPER_TABLE_2, Scale
from reproduce.script import Made, Place, script

BUDGETS = ("flash", "regular")
_PRINTED = 0.1
"""The paper prints tenths of a million parameters, some rounded and some cut off."""


def main() -> None:
    """Train and measure what is missing, then draw, tabulate and read off."""
    script("table2", __doc__, plan_of(demands), lambda scale, config: make)


def make(place: Place) -> Made:
    found = results(place)
    return Made(draw(found), found, paragraph(found), markdown_table(found))


def demands(scale: Scale, config: RunConfig) -> list[Demand]:
    return [
        Demand("Table 2, flash", scale.students, config.flash, scale.flash_seeds),
        Demand("Table 2, regular", scale.students, config.regular),
        Demand("Table 2, regular again", again(scale), config.regular),
    ]


def again(scale: Scale) -> Sequence[Architecture]:
    """The students that are distilled in full with a second seed."""
    return scale.students[: scale.repeats]


def results(place: Place) -> dict[str, Any]:
    """A row per student, and the scatter between seeds over all of them."""
    scale, config = place.scale, place.bench.config
    scores: dict[str, dict[Architecture, list[float]]] = {
        budget: {one: [] for one in scale.students} for budget in BUDGETS
    }
    seconds: dict[str, list[float]] = {budget: [] for budget in BUDGETS}
    further: dict[Architecture, Mapping[str, Measurement]] = {}
    latencies = {one: place.bench.scales.measure(one)["latency_ms"] for one in scale.students}
    wanted = [("flash", repeat, scale.students) for repeat in range(scale.flash_seeds)]
    wanted += [("regular", 0, scale.students), ("regular", 1, again(scale))]
    for budget, repeat, students in wanted:
        for one, found in place.store.score(students, budget, repeat=repeat).items():
            if not found.failure:
                scores[budget][one].append(found.measurements["mlm_accuracy"].value)
                seconds[budget].append(found.costs["distill"])
                if budget == "regular" and repeat == 0:
                    further[one] = found.measurements
    depth = place.bench.family.depth(config.baseline)
    return {
        "scale": scale.name,
        "template": config.space.template,
        "baseline": str(config.baseline),
        "steps": {budget: getattr(config, budget).total_steps(depth) for budget in BUDGETS},
        "median_seconds": {name: statistics.median(spent) for name, spent in seconds.items() if spent},
        "seed_deviation": {name: _deviation(values.values()) for name, values in scores.items()},
        "rows": [
            _row(place, one, latencies[one], {budget: scores[budget][one] for budget in BUDGETS}, further.get(one, {}))
            for one in scale.students
        ],
        "machine": fingerprint(),
    }


def _deviation(groups: Any) -> float | None:
    found = pooled_deviation(groups)
    return None if found is None else found[0]


def _row(
    place: Place,
    architecture: Architecture,
    latency: Measurement,
    scores: Mapping[str, Sequence[float]],
    finished: Mapping[str, Measurement],
) -> dict[str, Any]:
    details = latency.details
    names = ("perplexity", "teacher_agreement", "teacher_kl", "nsp_accuracy")
    return {
        "architecture": str(architecture),
        "num_parameters": place.bench.num_parameters(architecture),
        "parameter_ratio": place.bench.num_parameters(architecture)
        / place.bench.num_parameters(place.bench.config.baseline),
        "latency_ms": latency.value,
        "latency_stderr": latency.stderr,
        "latency_ratio": details.get("ratio"),
        "latency_ratio_interval": [details.get("ratio_low"), details.get("ratio_high")],
        **{f"{budget}_accuracy": list(values) for budget, values in scores.items()},
        **{name: finished[name].value for name in names if name in finished},
    }


def draw(found: Mapping[str, Any]) -> Figure:
    """Accuracy over latency after either budget."""
    with style():
        figure = new_figure(10.6, 4.6)
        for axes, budget in zip(figure.subplots(1, 2), BUDGETS, strict=True):
            _scatter(axes, found, budget)
    return figure


def _scatter(axes: Axes, found: Mapping[str, Any], budget: str) -> None:
    deviation = found["seed_deviation"][budget] or 0.0
    points, labels = [], []
    for row in found["rows"]:
        values = row[f"{budget}_accuracy"]
        if not values:
            continue
        is_baseline = row["architecture"] == found["baseline"]
        colour = BASELINE if is_baseline else STUDENT
        point = (row["latency_ms"], 100 * statistics.fmean(values))
        axes.errorbar(
            *point,
            xerr=1.96 * (row["latency_stderr"] or 0.0),
            yerr=196 * deviation / len(values) ** 0.5,
            fmt="D" if is_baseline else "o",
            ms=6,
            color=colour,
            elinewidth=0.9,
            zorder=3,
        )
        points.append(point)
        labels.append(Label(*point, row["architecture"], colour if is_baseline else INK, is_baseline))
    axes.margins(0.12)
    axes.set_xlabel("Latency (ms)")
    axes.set_ylabel("MLM accuracy (%)")
    set_title(axes, f"{budget.capitalize()} distillation, {found['steps'][budget]:,} steps")
    place_labels(axes, labels, points, size=7.5)


def markdown_table(found: Mapping[str, Any]) -> str:
    """The table: latency with its 95 % interval, accuracy with its range over seeds, ratios to the baseline."""
    head = (
        "| architecture | parameters | of the baseline's | latency (ms) | of the baseline's | flash accuracy (%) | "
        "regular accuracy (%) | perplexity | agreement with the teacher (%) |"
    )
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in found["rows"]:
        low, high = row["latency_ratio_interval"]
        ratio = f"{row['latency_ratio']:.3f}" if row["latency_ratio"] else "–"
        ratio += f" [{low:.3f}, {high:.3f}]" if low and high else ""
        cells = [
            f"`{row['architecture']}`" + (" (baseline)" if row["architecture"] == found["baseline"] else ""),
            f"{row['num_parameters']:,}",
            f"{row['parameter_ratio']:.3f}",
            f"{row['latency_ms']:.3f} ± {1.96 * (row['latency_stderr'] or 0):.3f}",
            ratio,
            *(_with_range(row[f"{budget}_accuracy"]) for budget in BUDGETS),
            f"{row['perplexity']:.1f}" if "perplexity" in row else "–",
            f"{100 * row['teacher_agreement']:.1f}" if "teacher_agreement" in row else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_range(values: Sequence[float]) -> str:
    if not values:
        return "failed"
    text = f"{100 * statistics.fmean(values):.2f}"
    return text if len(values) == 1 else f"{text} ({100 * min(values):.2f} to {100 * max(values):.2f})"


def paragraph(found: Mapping[str, Any]) -> str:
    """What agrees with the paper and what does not, from the figures alone."""
    sentences = [
        _sizes(found),
        _speeds(found),
        *(_accuracies(found, budget) for budget in BUDGETS),
        _both(found),
        _orders(found),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _sizes(found: Mapping[str, Any]) -> str:
    pairs = [(row, PAPER_TABLE_2.get(row["architecture"])) for row in found["rows"]]
    if found["template"] != "autodistill" or any(printed is None for _, printed in pairs):
        return "Widths are scaled down, so parameter counts cannot be compared with the paper's, only ratios can."
    wrong = [
        f"{row['architecture']} ({row['num_parameters'] / 1e6:.2f} M, paper {printed} M)"
        for row, printed in pairs
        if printed is not None and abs(row["num_parameters"] / 1e6 - printed) >= _PRINTED
    ]
    return (
        f"Parameter counts differ from the paper's for {joined(wrong)}."
        if wrong
        else "All parameter counts agree with the paper's."
    )


def _students(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in found["rows"] if row["architecture"] != found["baseline"]]


def _named(rows: Sequence[Mapping[str, Any]]) -> str:
    """``none``, or ``2 (a and b)``."""
    return f"{len(rows)} ({joined([row['architecture'] for row in rows])})" if rows else "none"


def _speeds(found: Mapping[str, Any]) -> str:
    """The paper has all seven faster than the baseline, on its own accelerator."""
    students = _students(found)
    faster = [row for row in students if _faster(row)]
    slower = [row for row in students if (low := row["latency_ratio_interval"][0]) and low > 1]
    return (
        f"In the paper all {len(students)} students are faster than the baseline, on its accelerator; on this "
        f"target for certain are {_named(faster)}; slower for certain are {_named(slower)}."
    )


def _faster(row: Mapping[str, Any]) -> bool:
    high = row["latency_ratio_interval"][1]
    return bool(high and high < 1)


def _accuracies(found: Mapping[str, Any], budget: str) -> str:
    """Counted only beyond what seeds explain: outside the 95 % interval of no difference."""
    means = {row["architecture"]: row[f"{budget}_accuracy"] for row in found["rows"] if row[f"{budget}_accuracy"]}
    baseline, deviation = means.get(found["baseline"]), found["seed_deviation"][budget]
    if not baseline or deviation is None:
        return ""
    sides: dict[str, list[Mapping[str, Any]]] = {"ahead": [], "behind": [], "level": []}
    for row in _students(found):
        if row["architecture"] in means:
            sides[_side(found, budget, row)].append(row)
    return (
        f"After {budget} distillation more accurate than the baseline are {_named(sides['ahead'])}, less accurate "
        f"{_named(sides['behind'])}, within what seeds change {_named(sides['level'])} (standard deviation "
        f"{100 * deviation:.2f} points)."
    )


def _side(found: Mapping[str, Any], budget: str, row: Mapping[str, Any]) -> str:
    """Where a student stands to the baseline, by the scatter of seeds pooled over all rows (Student's t)."""
    scores = {one["architecture"]: one[f"{budget}_accuracy"] for one in found["rows"]}
    values, baseline = scores[row["architecture"]], scores[found["baseline"]]
    deviation, freedom = found["seed_deviation"][budget], sum(max(0, len(one) - 1) for one in scores.values())
    if deviation is None or not values or not baseline:
        return "level"
    gap = statistics.fmean(values) - statistics.fmean(baseline)
    margin = float(t.ppf(0.975, freedom)) * deviation * (1 / len(values) + 1 / len(baseline)) ** 0.5
    return "level" if abs(gap) <= margin else "ahead" if gap > 0 else "behind"


def _both(found: Mapping[str, Any]) -> str:
    """The paper's claim for its seven: they beat MobileBERT in accuracy and latency."""
    students = _students(found)
    baseline = next(row for row in found["rows"] if row["architecture"] == found["baseline"])["regular_accuracy"]
    beating = [
        row
        for row in students
        if _faster(row)
        and row["regular_accuracy"]
        and baseline
        and statistics.fmean(row["regular_accuracy"]) > statistics.fmean(baseline)
    ]
    certain = [row for row in beating if _side(found, "regular", row) == "ahead"]
    if certain:
        verdict = "which agrees" if len(certain) == len(students) else "which agrees in part"
    else:
        verdict = "so this is open" if beating else "which does not agree"
    beyond = f", {_named(certain)} of them by more than seeds change" if beating else ""
    return (
        f"The paper's search found these {len(students)} because they beat the baseline in both; after regular "
        f"distillation here {_named(beating)} do by their means{beyond}, {verdict}. Its accuracies, of another "
        "teacher, text and masking, are not compared."
    )


def _orders(found: Mapping[str, Any]) -> str:
    rows = [row for row in found["rows"] if row["flash_accuracy"] and row["regular_accuracy"]]
    if len(rows) < 3:
        return ""
    flash, regular = (np.array([statistics.fmean(row[f"{name}_accuracy"]) for row in rows]) for name in BUDGETS)
    share = found["steps"]["flash"] / found["steps"]["regular"]
    return (
        f"Flash distillation, {share:.0%} of the steps, orders them as regular distillation does with Kendall's tau "
        f"{agreement(flash, regular):.2f}."
    )


if __name__ == "__main__":
    main()
