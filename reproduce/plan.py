"""What a script would train at a scale, and what that costs: computed, never tried.

The costs are those of `flashdistill plan`; here they are added up for a script's own list of trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flashdistill.config import RunConfig
from flashdistill.models.parameter_count import count_parameters
from flashdistill.planning.demands import Demand
from flashdistill.planning.planner import Planner
from flashdistill.planning.run_plan import Flops
from reproduce.scales import PAPER_TABLE_2, Scale


def plan_of(
    demands: Callable[[Scale, RunConfig], Sequence[Demand]],
) -> Callable[[Scale, RunConfig], list[str]]:
    """What prints the plan of a script from its list of trainings."""
    return lambda scale, config: plan_lines(scale, config, demands(scale, config))


def plan_lines(scale: Scale, config: RunConfig, demands: Sequence[Demand]) -> list[str]:
    """The plan for a terminal: budgets, parameters, trainings, memory, time."""
    planner = Planner(config, scale.teacher)
    depth = planner.family.depth(scale.students[0])
    lines = [
        f"scale {scale.name}: {scale.config.name}, template {config.space.template}, {len(scale.students)} students"
    ]
    for name, settings in (("flash", config.flash), ("regular", config.regular)):
        lines.append(
            f"{name}: {settings.total_steps(depth):,} steps ({settings.steps_per_block:,} for each of {depth} blocks, "
            f"{settings.pretraining_steps:,} of pre-training distillation), batches of {settings.batch_size:,} "
            f"sequences of {config.corpus.max_length} tokens"
        )
    return [
        *lines,
        "",
        *parameter_lines(scale, config),
        "",
        *_work_lines(scale, planner, demands),
        _memory_line(scale, planner),
    ]


def parameter_lines(scale: Scale, config: RunConfig) -> list[str]:
    """Parameter counts of Table 2, beside the paper's where the widths are the paper's."""
    family = config.student_family(scale.teacher.vocab_size)
    lines = []
    for architecture in scale.students:
        count = count_parameters(architecture, family)
        printed = PAPER_TABLE_2.get(str(architecture))
        paper = f"  (paper: {printed} M)" if printed and config.space.template == "autodistill" else ""
        lines.append(f"{architecture!s:<18} {count:>12,} parameters{paper}")
    return lines


def _work_lines(scale: Scale, planner: Planner, demands: Sequence[Demand]) -> list[str]:
    """Each kind of training, and all of them with room for the teacher's answers and with the configured one."""
    lines, depth, once = [], planner.family.depth(scale.students[0]), 0.0
    totals = {"configured": Flops(0.0, 0.0), "roomy": Flops(0.0, 0.0)}
    for demand in demands:
        work = planner.flops(demand, demand.settings, "configured")
        lines.append(
            f"{demand.what}: {demand.trainings:g} trainings of {demand.settings.total_steps(depth):,} steps, "
            f"{work.student:.2e} FLOP of students and {work.teacher:.2e} of the teacher"
        )
        totals["configured"] += work
        totals["roomy"] += planner.flops(demand, demand.settings, "roomy")
        once = max(once, planner.distillation(demand.architectures[0], demand.settings, "roomy").teacher_once)
    hours = {name: (work.student + work.teacher) / scale.flops_per_s / 3600 for name, work in totals.items()}
    kept = hours["roomy"] + once / scale.flops_per_s / 3600
    return [
        *lines,
        f"all: {hours['configured']:,.3g} hours of one machine at a sustained {scale.flops_per_s:.0e} FLOP/s, "
        f"{kept:,.3g} where there is room for all of the teacher's answers (signals.disk_gib); what is trained already "
        "is not trained again",
    ]


def _memory_line(scale: Scale, planner: Planner) -> str:
    config = planner.config
    hidden = planner.hidden_bytes()
    memory_of = {one: planner.memory(one, hidden) for one in scale.students}
    largest = max(memory_of, key=lambda one: memory_of[one].per_sequence)
    memory = memory_of[largest]
    batch = config.training.micro_batch_size or config.regular.batch_size
    return (
        f"memory of one process at most ({largest}): {memory.fixed / 1e9:.2f} GB and "
        f"{memory.per_sequence / 1e6:.1f} MB for each sequence at a time, so {memory.total(batch) / 1e9:.1f} GB for "
        f"{batch:,} (training.micro_batch_size sets how many)"
    )
