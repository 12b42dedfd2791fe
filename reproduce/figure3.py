"""The paper's Figure 3, how fast each search finds better students, on tables whose truth is known.

Reads the search benchmark's JSON file, or runs that part of the benchmark which the figure needs;
what was replayed before is not replayed again.

    python -m reproduce.figure3 --json search.json --output runs/figure3
    python -m reproduce.figure3 --output runs/figure3 -- --seeds 10 --workers 2
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console

from benchmarks import search
from flashdistill.core.files import read_json, write_json, write_text
from flashdistill.delivery.plot_style import INK, MUTED, OTHER, PAPER, SERIES, new_figure, set_title, style

PAPER_COUNTS = {"bayesian": (43, 110), "firefly": (64, 296), "random": (116, 270)}
"""Iterations to the first and to the third student that beats the baseline, as the paper has them."""

METHODS = ("bayesian-beat", "bayesian", "nsga2", "firefly", "random")
_BLUE, _YELLOW, _, _PINK, _, _BROWN, _GREY = SERIES
_COLOURS = dict(zip(METHODS, (_BROWN, _BLUE, _PINK, _YELLOW, _GREY), strict=True))

_THIRD = "iterations_to_3"
_FIRST = "iterations_to_1"


def main() -> None:
    """Read or make the results, then draw them and say what agrees with the paper."""
    arguments = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = chosen(results(arguments), arguments.problem)
    draw(found, arguments.output / "figure3.png")
    reading = paragraph(found)
    write_json(arguments.output / "figure3.json", {**found, "paper": PAPER_COUNTS, "reading": reading})
    write_text(arguments.output / "figure3.md", reading + "\n")
    Console().print(reading)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="what `python -m benchmarks.search --json` wrote")
    parser.add_argument("--problem", help="of the JSON file; default: its headline")
    parser.add_argument("--output", type=Path, default=Path("runs/figure3"))
    parser.add_argument("benchmark", nargs="*", help="after --: options for the benchmark, where there is no JSON")
    return parser.parse_args()


def results(arguments: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's JSON, from the file named or from a benchmark run now."""
    if arguments.json:
        return read_json(arguments.json)
    path = arguments.output / "search.json"
    asked = ["--methods", *METHODS, "--densities", "0.012", "--timing-trials", "--iterations", "150"]
    if status := search.main([*asked, "--json", str(path), *arguments.benchmark]):
        raise SystemExit(status)
    return read_json(path)


def chosen(record: Mapping[str, Any], problem: str | None) -> dict[str, Any]:
    """The figures of one problem at the headline's density, of the methods that are drawn.

    Raises:
        SystemExit: the record has no such problem, or lacks what is compared.
    """
    name, density = problem or record["headline"]["problem"], f"{record['headline']['density']:g}"
    if name not in record["problems"] or density not in record["problems"][name]:
        raise SystemExit(
            f"no problem {name!r} at density {density} in the file; it has {', '.join(record['problems'])}"
        )
    group = record["problems"][name][density]
    methods = {method: group["methods"][method] for method in METHODS if method in group["methods"]}
    if missing := [method for method in PAPER_COUNTS if method not in methods]:
        raise SystemExit(f"the file lacks {', '.join(missing)}: run the benchmark with --methods {' '.join(METHODS)}")
    return {"problem": name, **{key: value for key, value in group.items() if key != "methods"}, "methods": methods}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Winners and front over iterations, and iterations to the third winner beside the paper's."""
    with style():
        figure = new_figure(12.6, 4.3)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.05, 1.05, 1.0))
        _curves(left, found, "winners")
        left.axhline(3, color=OTHER, lw=0.9, ls=(0, (4, 4)), zorder=1)
        left.text(0.02, 3, "third", va="bottom", color=MUTED, transform=left.get_yaxis_transform())
        left.set_ylabel("students found that beat the baseline")
        set_title(left, "Better students found")
        _curves(middle, found, "hypervolume")
        middle.set_ylabel("share of the front's hypervolume")
        set_title(middle, "The front, as far as it is known")
        _third_winner(right, found)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.savefig(path, dpi=150)


def _curves(axes: Axes, found: Mapping[str, Any], name: str) -> None:
    """The mean over searches as a line, its 95 % interval as a band."""
    for method, item in found["methods"].items():
        curve = item[name]
        iterations = np.arange(len(curve["mean"]))
        axes.plot(iterations, curve["mean"], color=_COLOURS[method], lw=1.9, label=item["label"], zorder=3)
        axes.fill_between(iterations, curve["low"], curve["high"], color=_COLOURS[method], alpha=0.16, lw=0)
    axes.set_xlabel("students trained after the baseline")
    axes.set_xlim(left=0)


def _third_winner(axes: Axes, found: Mapping[str, Any]) -> None:
    """One line per method: ours with its interval, the paper's number, and what theory says of random draws."""
    methods = list(found["methods"])
    rows = np.arange(len(methods))[::-1]
    for row, method in zip(rows, methods, strict=True):
        item = found["methods"][method][_THIRD]
        axes.plot([item["low"], item["high"]], [row, row], color=_COLOURS[method], lw=4, alpha=0.35, zorder=2)
        axes.plot(item["mean"], row, "o", ms=8, color=_COLOURS[method], zorder=3)
        axes.annotate(f"{item['mean']:.0f}", (item["mean"], row), (0, 9), textcoords="offset points", ha="center")
        if method in PAPER_COUNTS:
            place = (PAPER_COUNTS[method][1], row)
            axes.plot(*place, "D", ms=7, mfc=PAPER, mec=INK, mew=1.2, zorder=3)
            axes.annotate(f"{place[0]}", place, (0, 9), textcoords="offset points", ha="center", color=MUTED)
    axes.plot([], [], "o", ms=8, color=OTHER, label="here, 95 % interval")
    axes.plot([], [], "D", ms=7, mfc=PAPER, mec=INK, mew=1.2, ls="", label="paper")
    expected = found["random_expected"]["3"]
    axes.axvline(expected, color=OTHER, lw=0.9, ls=(0, (4, 4)), zorder=1, label="random, theory")
    axes.set_yticks(rows, [found["methods"][method]["label"] for method in methods])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(-0.6, len(methods) - 0.3)
    axes.set_xlim(0, 1.12 * max(axes.get_xlim()[1], PAPER_COUNTS["firefly"][1]))
    axes.set_xlabel("students trained until the third that beats it")
    axes.grid(axis="y", visible=False)
    set_title(axes, "Until the third")
    axes.legend(loc="upper right", frameon=True, facecolor=PAPER, edgecolor=PAPER, framealpha=1.0)


def paragraph(found: Mapping[str, Any]) -> str:
    """What agrees with the paper and what does not, from the figures alone."""
    methods = found["methods"]
    agree, differ = [], []
    for count, place in ((_FIRST, 0), (_THIRD, 1)):
        here = {method: methods[method][count] for method in PAPER_COUNTS}
        ordinal = "first" if count == _FIRST else "third"
        for better, worse in (("bayesian", "random"), ("bayesian", "firefly"), ("firefly", "random")):
            theirs = PAPER_COUNTS[better][place] / PAPER_COUNTS[worse][place]
            ours = here[better]["mean"] / here[worse]["mean"]
            text = f"{better} over {worse} to the {ordinal}: {ours:.2f} (paper {theirs:.2f})"
            (agree if _same_side(here[better], here[worse], theirs) else differ).append(text)
    facts = ", ".join(
        f"{item['label']} {item[_FIRST]['mean']:.0f} and {item[_THIRD]['mean']:.0f} "
        f"[{item[_THIRD]['low']:.0f}, {item[_THIRD]['high']:.0f}]"
        for item in methods.values()
    )
    censored = {item["label"]: item[_THIRD]["censored"] for item in methods.values() if item[_THIRD]["censored"]}
    unfinished = "".join(f" {count} searches of {label} ended without three." for label, count in censored.items())
    return (
        f"On {found['problem']}, where {', '.join(map(str, found['winners']))} of {found['architectures'][0]} students "
        f"truly beat the baseline, the means to the first and the third such student are: {facts}; random draws "
        f"without repeats need {found['random_expected']['3']:.0f} in theory. The paper has 43 and 110 for Bayesian "
        f"optimisation, 64 and 296 for firefly, 116 and 270 for random search.{unfinished} In the paper's order, with "
        f"intervals apart (ratios of iterations): {_listed(agree)}. In another order, or too close to tell: "
        f"{_listed(differ)}. The paper counts what beats the baseline in one run, on its own space and machine; here "
        "only what truly beats it counts."
    )


def _same_side(better: Mapping[str, float], worse: Mapping[str, float], theirs: float) -> bool:
    """Whether intervals that do not overlap put the two in the paper's order."""
    return better["high"] < worse["low"] if theirs < 1 else better["low"] > worse["high"]


def _listed(items: list[str]) -> str:
    return "; ".join(items) or "none"


if __name__ == "__main__":
    main()
