"""A plan as tables for a terminal; plain aligned text where it is not one."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flashdistill.planning.answers import AnswerPlan
from flashdistill.planning.devices import BANDWIDTH_SHARE, UTILISATION
from flashdistill.planning.run_plan import DemandCost, RunPlan
from flashdistill.planning.teacher_shape import TeacherShape

PIPED_WIDTH = 160
UNKNOWN = "unknown"

Rows = Iterable[Sequence[str]]


def plan_text(plan: RunPlan) -> str:
    """The plan as plain aligned text."""
    console = Console(file=io.StringIO(), width=PIPED_WIDTH, highlight=False)
    with console.capture() as captured:
        _show(console, plan)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def print_plan(plan: RunPlan) -> None:
    """Print a plan to standard output."""
    console = Console(highlight=False)
    if console.is_terminal:
        _show(console, plan)
    else:
        console.file.write(plan_text(plan) + "\n")


def _show(console: Console, plan: RunPlan) -> None:
    console.print(Text(f"plan of {plan.name}", style="bold"))
    _table(console, "", ["", ""], _glance(plan), right=False)
    _table(console, "trainings", ["", "trainings", "steps each", "tokens", "student FLOP", "teacher FLOP"], _work(plan))
    if plan.in_steps:
        hours = ["one device", "sustained TFLOP/s", "as configured", "room for all answers", "no savings", "memory"]
        _table(console, "time of all distillations", hours, _hours(plan))
    if plan.answers:
        head = ["", "stage batches", "pre-training batches", "signals.disk_gib for all"]
        _table(console, "teacher's answers kept on disk", head, map(_answers, plan.answers))
    _table(console, "disk", ["", "in", "GB", "after the run"], _disk(plan))
    _table(console, "memory of one process", ["", "GB"], _memory(plan))
    for note in _notes(plan):
        console.print(Text(f"- {note}"), soft_wrap=not console.is_terminal)


def _table(console: Console, title: str, header: Sequence[str], rows: Rows, right: bool = True) -> None:
    """A table; its first column, and all where ``right`` is false, to the left."""
    ruled = console.is_terminal and any(header)
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if ruled else None,
        show_header=any(header),
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index and right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    console.print()


def _glance(plan: RunPlan) -> Rows:
    measuring = plan.measuring
    yield "teacher", f"{_shape(plan.teacher)}; {_preparation(plan)}"
    yield "space", f"{plan.space_size:,} architectures, {plan.within_limits:,} within the limits on size"
    many = f"{measuring.least:,}" if measuring.least == measuring.most else f"{measuring.least:,} to {measuring.most:,}"
    targets = "" if measuring.targets == 1 else f" on {measuring.targets} targets"
    yield "search", f"{plan.trained:,} candidates trained, {many} measured{targets}, and the baseline"
    yield "measuring", f"at most {_duration(measuring.seconds)}"
    if plan.training_seconds is not None:
        yield "distillation", f"at most {_duration(plan.training_seconds)}, on any device"


def _shape(teacher: TeacherShape) -> str:
    kind = "" if teacher.bottleneck_size is None else f" with bottlenecks of {teacher.bottleneck_size}"
    return f"{teacher.num_layers} blocks of width {teacher.hidden_size}{kind}, {teacher.vocab_size:,} entries"


def _preparation(plan: RunPlan) -> str:
    cost = plan.preparation
    if cost.steps is not None:
        return f"{cost.what} in {cost.steps:,} steps, {_amount(cost.tokens)} tokens, {_amount(cost.flops)} FLOP"
    return cost.what if cost.seconds is None else f"{cost.what} for {_duration(cost.seconds)}"


def _work(plan: RunPlan) -> Rows:
    for demand in plan.demands:
        flops = demand.flops["configured"] if demand.flops is not None else None
        own, taught = (None, None) if flops is None else (flops.student, flops.teacher)
        yield (
            demand.what,
            f"{demand.trainings:g}",
            _steps(demand),
            _amount(demand.tokens),
            _amount(own),
            _amount(taught),
        )
    if plan.in_steps:
        yield "answers for all of them", "", "", "", "", _amount(plan.teacher_once["configured"])
        yield "scoring on held-out text", "", "", "", _amount(plan.scoring.student), _amount(plan.scoring.teacher)
        total, tokens = plan.total("configured"), sum(demand.tokens or 0.0 for demand in plan.demands)
        count = sum(demand.trainings for demand in plan.demands)
        yield "all", f"{count:g}", "", _amount(tokens), _amount(total.student), _amount(total.teacher)


def _steps(demand: DemandCost) -> str:
    return f"{demand.steps:,}" if demand.steps is not None else f"{demand.seconds:g} s"


def _hours(plan: RunPlan) -> Rows:
    needed = plan.memory.total(plan.sequences_at_a_time)
    for rates in plan.rates:
        same = math.isclose(rates.student, rates.teacher)
        sustained = _tera(rates.student) if same else f"{_tera(rates.student)} and {_tera(rates.teacher)}"
        seconds = (_duration(plan.seconds_on(rates, savings)) for savings in ("configured", "roomy", "none"))
        fits = ""
        if rates.memory_bytes is not None:
            at_a_time = int((rates.memory_bytes - plan.memory.fixed) // plan.memory.per_sequence)
            fits = "fits" if needed <= rates.memory_bytes else f"{max(0, at_a_time):,} sequences at a time"
        yield f"{rates.device} {rates.precision}".strip(), sustained, *seconds, fits


def _answers(plan: AnswerPlan) -> Sequence[str]:
    def found(room: int, batches: int) -> str:
        return f"{min(room, batches):,} of {batches:,}"

    room = plan.room
    return (
        plan.budget,
        found(room.answered, plan.stage_batches),
        found(room.pretraining, plan.pretraining_batches),
        f"{plan.disk_for_all / 2**30:,.3g}",
    )


def _disk(plan: RunPlan) -> Rows:
    for use in plan.disk:
        yield use.what, use.where, _gigabytes(use.bytes), "stays" if use.lasting else "gone"


def _memory(plan: RunPlan) -> Rows:
    memory = plan.memory
    yield f"{plan.memory_of} in training: weights, gradients, moments", _gigabytes(memory.student)
    yield "teacher's weights", _gigabytes(memory.teacher)
    yield "hidden states of the stages", _gigabytes(memory.hidden_states)
    count = plan.sequences_at_a_time
    yield f"activations of {count:,} sequences at a time", _gigabytes(count * memory.per_sequence)
    yield "all", _gigabytes(memory.total(count))


def _notes(plan: RunPlan) -> Iterable[str]:
    if plan.in_steps:
        yield (
            f"sustained: at most {UTILISATION:.0%} of the peak, and what {BANDWIDTH_SHARE:.0%} of the memory's "
            "bandwidth feeds; of students, and of the teacher. An assumption: --flops-per-s gives your own, and "
            "--device this measures the machine here"
        )
        yield (
            "no savings: nothing is kept, all models run from their first block in every step, and logits are formed "
            "at every position"
        )
    else:
        yield (
            "budgets are in seconds: a calibration on the baseline turns them into steps at the beginning of the run, "
            "so steps, tokens and operations are not known before"
        )
    yield (
        "candidates count as if drawn evenly from the architectures within the limits on size; at least the selected "
        "students and the baseline are confirmed with further seeds, more if the choice changes by it"
    )
    if plan.memory.total(plan.sequences_at_a_time) > 8e9:
        yield "training.micro_batch_size sets how many sequences one process holds at a time; gradients add up"
    if any(use.bytes is None for use in plan.disk if use.what == "tokenised corpus"):
        yield "the size of the text is not known here: --text-bytes gives it; its tokens take about half as much"


def _amount(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.2e}" if value >= 1e6 else f"{value:,.0f}"


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.3g}"


def _gigabytes(count: float | None) -> str:
    if count is None:
        return UNKNOWN
    return f"{count / 1e9:,.1f}" if count >= 1e10 else f"{count / 1e9:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 100 else f"{hours:,.0f} hours"
