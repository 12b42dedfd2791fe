"""Step counts for flash and regular distillation, the same for every candidate of a run."""

from __future__ import annotations

from collections.abc import MutableMapping

from flashdistill import results
from flashdistill.config import RunConfig, dump_config
from flashdistill.core.clock import timed
from flashdistill.core.files import write_text
from flashdistill.core.progress import tracked
from flashdistill.distillation.calibration import StepSeconds, resolve_steps
from flashdistill.distillation.settings import DistillationSettings, FlashSettings
from flashdistill.workbench import Workbench

Budgets = dict[str, DistillationSettings]

_WHILE_TIMING = 1000
"""Steps of the schedule that is timed; any number will do."""


def resolve_budgets(bench: Workbench, costs: MutableMapping[str, float]) -> None:
    """Turn seconds into steps, once; a resumed run keeps what the first one found.

    Replaces the bench's configuration by the resolved one and writes that to the run directory.
    """
    config, state = bench.config, bench.directory.state()
    if "flash" in state:
        budgets: Budgets = {
            "flash": FlashSettings.model_validate(state["flash"]),
            "regular": DistillationSettings.model_validate(state["regular"]),
        }
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


def _calibrated(bench: Workbench, config: RunConfig) -> Budgets:
    budgets: Budgets = {"flash": config.flash, "regular": config.regular}
    depth = bench.family.depth(config.baseline)
    known: dict[str, StepSeconds] = {}
    for name, budget in budgets.items():
        # Flash and regular steps cost the same where the budgets differ in their length only.
        kind = budget.with_steps(_WHILE_TIMING, _WHILE_TIMING).model_dump_json(exclude={"students_per_teacher"})
        if budget.seconds is not None and kind not in known:
            timed_settings = budget.with_steps(_WHILE_TIMING, _WHILE_TIMING)
            known[kind] = bench.time_steps(config.baseline, timed_settings)
        budgets[name] = resolve_steps(budget, known.get(kind), depth)
    return budgets
