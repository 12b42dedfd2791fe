"""The paper's Figure 5: how accuracy and time grow with the length of flash distillation.

The students of Table 2 are distilled with 1.25, 2.5, 5, 10 and 100 % of the regular steps, each time
with a schedule of its own; what each length costs, reaches, and how it ranks them against the
whole. An interrupted command goes on where it was.

    python -m reproduce.figure5 --scale mini
    python -m reproduce.figure5 --scale paper --dry-run
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

from flashdistill.config import RunConfig
from flashdistill.delivery.plot_style import BASELINE, OTHER, STUDENT, new_figure, set_title, style
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.evaluation.rank_fidelity import agreement
from flashdistill.hardware.machine import fingerprint
from reproduce.plan import Demand, plan_of
from reproduce.scales import Scale
from reproduce.script import Made, Place, script

SHARES = (0.0125, 0.025, 0.05, 0.1, 1.0)
PAPERS_CHOICE = 0.05
"""The share at which the paper stops: flash distillation."""


def main() -> None:
    """Train what is missing, then draw and read off."""
    script("figure5", __doc__, plan_of(demands), lambda scale, config: make)


def make(place: Place) -> Made:
    found = results(place)
    return Made(draw(found), found, paragraph(found))


def demands(scale: Scale, config: RunConfig) -> list[Demand]:
    return [
        Demand(f"Figure 5, {100 * share:g} %", scale.students, shortened(config.regular, share)) for share in SHARES
    ]


def shortened(regular: DistillationSettings, share: float) -> DistillationSettings:
    """The regular budget with a share of the steps of every phase, warm-up included."""
    if share == 1.0:
        return regular
    blocks, pretraining = (
        round(share * (steps or 0)) for steps in (regular.steps_per_block, regular.pretraining_steps)
    )
    settings = regular.with_steps(blocks, max(1, pretraining))
    warmup = regular.warmup_steps
    return settings if warmup is None else settings.model_copy(update={"warmup_steps": round(share * warmup)})


def results(place: Place) -> dict[str, Any]:
    """Accuracy and seconds of every student at every share; None where a training failed."""
    scale, config = place.scale, place.bench.config
    depth = place.bench.family.depth(config.baseline)
    points = []
    for share in SHARES:
        settings = shortened(config.regular, share)
        # What is as long as flash is flash: Table 2 and Figure 6 have trained it.
        same = settings.total_steps(depth) == config.flash.total_steps(depth)
        budget = "regular" if share == 1.0 else "flash" if same else f"share-{share:g}"
        found = place.store.score(scale.students, budget, settings=settings)
        points.append(
            {
                "share": share,
                "steps": settings.total_steps(depth),
                "accuracy": {
                    str(one): None if each.failure else each.measurements["mlm_accuracy"].value
                    for one, each in found.items()
                },
                "seconds": {str(one): each.costs["distill"] for one, each in found.items()},
            }
        )
    return {
        "scale": scale.name,
        "baseline": str(config.baseline),
        "points": points,
        "machine": fingerprint(),
    } | summary(points)


def summary(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By share: mean accuracy, median time relative to the whole, order against the whole;
    and how far apart the students are in the end.

    Only students that no training lost are counted. Median seconds, for the first training of a
    budget also pays for the teacher's answers.
    """
    kept = [name for name in points[0]["accuracy"] if all(point["accuracy"][name] is not None for point in points)]
    scores = np.array([[point["accuracy"][name] for name in kept] for point in points])
    spent = [statistics.median(point["seconds"].values()) for point in points]
    return {
        "students": kept,
        "mean_accuracy": scores.mean(axis=1).tolist(),
        "median_seconds": spent,
        "time_share": [seconds / spent[-1] for seconds in spent],
        "tau": [agreement(row, scores[-1]) for row in scores],
        "spread": float(np.ptp(scores[-1])),
    }


def draw(found: Mapping[str, Any]) -> Figure:
    """Accuracy, time and order over the share of the regular steps."""
    with style():
        figure = new_figure(12.2, 4.2)
        left, middle, right = figure.subplots(1, 3)
        shares = [100 * point["share"] for point in found["points"]]
        for name in found["students"]:
            is_baseline = name == found["baseline"]
            values = [100 * point["accuracy"][name] for point in found["points"]]
            left.plot(shares, values, "-", color=BASELINE if is_baseline else OTHER, lw=1.6 if is_baseline else 0.9)
        left.plot(shares, [100 * value for value in found["mean_accuracy"]], "o-", color=STUDENT, lw=2, label="mean")
        left.plot([], [], color=BASELINE, label="baseline")
        left.plot([], [], color=OTHER, label="other students")
        left.legend(loc="lower right")
        _panel(left, "MLM accuracy (%)", "Accuracy")
        middle.plot(shares, found["median_seconds"], "o-", color=STUDENT, lw=1.8)
        middle.set_yscale("log")
        _panel(middle, "seconds of one distillation", "Time")
        right.plot(shares, found["tau"], "o-", color=STUDENT, lw=1.8)
        right.set_ylim(min(0.0, *found["tau"]) - 0.06, 1.06)
        _panel(right, "Kendall’s τ against all steps", "Order of the students")
    return figure


def _panel(axes: Axes, label: str, title: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks([100 * share for share in SHARES], [f"{100 * share:g}" for share in SHARES])
    axes.xaxis.set_minor_locator(NullLocator())
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.axvline(100 * PAPERS_CHOICE, color=OTHER, lw=0.9, ls=(0, (4, 4)), zorder=1)
    axes.set_xlabel("share of the regular steps (%)")
    axes.set_ylabel(label)
    set_title(axes, title)


def paragraph(found: Mapping[str, Any]) -> str:
    """What agrees with the paper's choice of 5 % and what does not, from the figures alone."""
    means, times, taus = found["mean_accuracy"], found["time_share"], found["tau"]
    listed = [
        f"{100 * share:g} % of the steps: {100 * mean:.1f} % accuracy in {100 * time:.3g} % of the time, tau {tau:.2f}"
        for share, mean, time, tau in zip(SHARES, means, times, taus, strict=True)
    ]
    at = SHARES.index(PAPERS_CHOICE)
    rising = all(later > earlier for earlier, later in pairwise(means))
    reached = means[at] / means[-1]
    verdicts = {
        "accuracy grows with every longer distillation": rising,
        f"5 % of the steps cost about 5 % of the time ({100 * times[at]:.2g} %)": 0.5
        <= times[at] / PAPERS_CHOICE
        <= 2.0,
        f"5 % of the steps order the students much as all of them do (tau {taus[at]:.2f})": taus[at] >= 0.6,
    }
    agreeing = [text for text, holds in verdicts.items() if holds]
    differing = [text for text, holds in verdicts.items() if not holds]
    return (
        f"Over {len(found['students'])} students, with {'; '.join(listed)}. The paper stops at 5 %, where here "
        f"{100 * reached:.0f} % of the final accuracy is reached. In agreement with it: "
        f"{'; '.join(agreeing) or 'nothing'}. Not so: {'; '.join(differing) or 'nothing'}. After all "
        f"steps these students lie {100 * found['spread']:.2f} points apart, so seeds have a say in their order; "
        "Figure 6 compares more of them."
    )


if __name__ == "__main__":
    main()
