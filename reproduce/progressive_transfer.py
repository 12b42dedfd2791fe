"""Does the layer-wise phase pay at equal total steps? Validation accuracy over steps, as a plot and a table.

Every variant spends the same number of optimiser steps on the same student, teacher and text
(those of configs/quickstart.yaml, with a deeper student): with progressive transfer a part of
them goes into the stages, without it all go into pre-training distillation. A variant that is
finished is not run again, so an interrupted command goes on where it was.

    python reproduce/progressive_transfer.py --output runs/progressive-transfer
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from flashdistill.config import RunConfig, load_config
from flashdistill.console import ConsoleProgress
from flashdistill.core.files import read_json, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Silent
from flashdistill.core.run_directory import RunDirectory
from flashdistill.delivery.plot_style import SERIES, set_title, style
from flashdistill.distillation.distill import Distilled
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.teacher_preparation import prepare_teacher
from flashdistill.preflight import quiet_libraries
from flashdistill.scoring import evaluate
from flashdistill.training.compute import open_compute
from flashdistill.workbench import Workbench

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "paper, no transfer": {"progressive_ratio": 0.0},
    "mobilebert": {"preset": "mobilebert"},
    "mobilebert, no transfer": {"preset": "mobilebert", "progressive_ratio": 0.0},
    "paper, new batches": {"stage_batches": "new"},
    "paper, head transfer": {"transfer_head": True},
    "paper, relations": {"losses": {"relations": 1.0, "relation_heads": 8}},
}
"""What differs from the shared settings; the first four answer the question."""

SHARED = {
    "optimizer": "adamw",
    "batch_size": 16,
    "learning_rate": 4.0e-3,
    "block_learning_rate": 5.0e-3,
    "transfer_head": False,
}


def main() -> None:
    """Run what is missing, then draw and print everything."""
    arguments = parse()
    quiet_libraries()
    config = load_config(
        CONFIG, [f"space.num_blocks={arguments.blocks}", f"baseline={arguments.student}", *arguments.override]
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    bench = workbench(config, arguments.output)
    for seed in range(arguments.seeds):
        for name in arguments.variants:
            path = arguments.output / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            if not path.exists():
                write_json(path, {"variant": name, "seed": seed} | run(bench, VARIANTS[name], seed, arguments))
    found = [read_json(path) for path in sorted(arguments.output.glob("*-[0-9].json"))]
    draw(found, arguments.output / "accuracy.png")
    print_table(found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/progressive-transfer"))
    parser.add_argument("--steps", type=int, default=1200, help="optimiser steps of every variant")
    parser.add_argument("--points", type=int, default=12, help="how often a student is evaluated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--student", default="128_32_4_128_4")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--override", nargs="*", default=[], help="KEY=VALUE for the configuration")
    return parser.parse_args()


def workbench(config: RunConfig, output: Path) -> Workbench:
    """Teacher and text, prepared or from the cache."""
    compute = open_compute(config.training)
    with ConsoleProgress() as progress:
        prepared = prepare_teacher(config.teacher, config.corpus, config.cache_directory, progress, compute)
    return Workbench(config, RunDirectory(output / "work"), prepared, Silent(), compute)


def budget(variant: Mapping[str, Any], steps: int, blocks: int) -> DistillationSettings:
    """Step counts that add up to ``steps``, the head transfer's included."""
    settings = DistillationSettings.model_validate(SHARED | dict(variant) | {"steps": steps})
    stages = settings.progressive_ratio * (2 if settings.transfer_head else 1)
    per_block = round(steps * settings.progressive_ratio / (1 + stages) / blocks)
    spent = per_block * blocks * (2 if settings.transfer_head else 1)
    return settings.with_steps(per_block, steps - spent)


def run(bench: Workbench, variant: Mapping[str, Any], seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Distil one student; its accuracy at equal distances."""
    settings = budget(variant, arguments.steps, arguments.blocks)
    seeded = bench.config.model_copy(update={"seed": seed})
    directory = RunDirectory(bench.directory.path / f"seed-{seed}")
    bench = Workbench(seeded, directory, bench.prepared, Silent(), bench.compute)
    distillation = bench.distillation(bench.config.baseline, settings, None, "distil")
    every = max(1, arguments.steps // arguments.points)
    points: list[dict[str, float]] = []
    scores: dict[str, Measurement] = {}
    for step, _ in enumerate(distillation.steps(), start=1):
        if step % every and step != arguments.steps:
            continue
        scores = evaluate(bench, bench.config.baseline, Distilled(distillation.student, {}))
        points.append({"step": step} | {name: score.value for name, score in scores.items()})
        print(f"seed {seed}, step {step}: {100 * scores['mlm_accuracy'].value:.2f} %", flush=True)
    stderr = {name: score.stderr for name, score in scores.items()}
    return {"settings": settings.model_dump(mode="json"), "points": points, "stderr": stderr}


def draw(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy over steps: the mean of the seeds as a line, their range as a band."""
    with style():
        figure, axes = plt.subplots(figsize=(8.4, 4.6), layout="constrained")
        for colour, name in zip(SERIES, VARIANTS, strict=False):
            curves = [one["points"] for one in found if one["variant"] == name]
            if curves:
                accuracy = 100 * np.array([[point["mlm_accuracy"] for point in points] for points in curves])
                steps = [point["step"] for point in curves[0]]
                dashes = "--" if "no transfer" in name else "-"
                axes.plot(steps, accuracy.mean(0), dashes, color=colour, label=name, linewidth=1.8)
                axes.fill_between(steps, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="optimiser steps", ylabel="MLM accuracy on held-out text (%)")
        set_title(axes, "With and without progressive transfer, at equal steps")
        axes.legend(frameon=False, fontsize=8.5)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def print_table(found: Sequence[Mapping[str, Any]]) -> None:
    """The last point of every variant: mean and range over seeds."""
    table = Table("variant", "seeds", "MLM accuracy (%)", "range", "MLM loss (nats)")
    for name in VARIANTS:
        last = [one["points"][-1] for one in found if one["variant"] == name]
        if last:
            accuracy = 100 * np.array([point["mlm_accuracy"] for point in last])
            spread = f"{accuracy.min():.2f} to {accuracy.max():.2f}"
            loss = np.mean([point["mlm_loss"] for point in last])
            table.add_row(name, str(len(last)), f"{accuracy.mean():.2f}", spread, f"{loss:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
