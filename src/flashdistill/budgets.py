"""Step counts for flash and regular distillation, the same for every candidate of a run."""

from __future__ import annotations

from collections.abc import MutableMapping

from flashdistill import results
from flashdistill.config import RunConfig, dump_config
from flashdistill.core.clock import timed
from flashdistill.core.files import write_text
from flashdistill.core.progress import tracked
from flashdistill.distillation.calibration import resolve_steps, time_steps
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.workbench import Workbench

_WHILE_TIMING = 1000
"""Steps of the schedule that is timed; any number will do."""


def resolve_budgets(bench: Workbench, costs: MutableMapping[str, float]) -> None:
    """Turn seconds into steps, once; a resumed run keeps what the first one found.

    Replaces the bench's configuration by the resolved one and writes that to the run directory.
    """
    config, state = bench.config, bench.directory.state()
    if "flash" in state:
        budgets = {name: DistillationSettings.model_validate(state[name]) for name in ("flash", "regular")}
    else:
        with timed(costs, "calibration"), tracked(bench.progress, "calibrate"):
            budgets = _calibrated(bench, config)
        bench.directory.remember(**{name: value.model_dump(mode="json") for name, value in budgets.items()})
    bench.config = config.model_copy(update=budgets)
    write_text(bench.directory.config, dump_config(bench.config, results.version_lines()))
    for name, budget in budgets.items():
        bench.progress.message(
            f"{name} distillation: {budget.steps_per_block:,} steps a block, {budget.pretraining_steps:,} steps of "
            f"pre-training distillation, {budget.batch_size:,} sequences a batch"
        )


def _calibrated(bench: Workbench, config: RunConfig) -> dict[str, DistillationSettings]:
    budgets = {"flash": config.flash, "regular": config.regular}
    depth = bench.family.depth(config.baseline)
    for name, budget in budgets.items():
        if budget.seconds is not None:
            timed_settings = budget.with_steps(_WHILE_TIMING, _WHILE_TIMING)
            thrown_away = bench.distillation(config.baseline, timed_settings, None, "calibrate")
            budgets[name] = resolve_steps(budget, time_steps(thrown_away), depth)
    return budgets
