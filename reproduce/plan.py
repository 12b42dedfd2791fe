"""What a script would train at a scale, and what that costs: computed, never tried.

Symbols::

    T tokens of a batch, S tokens of a sequence, K blocks, h hidden, b bottleneck, i intermediate,
    F stacked feed-forward networks, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.models.parameter_count import count_parameters
from flashdistill.models.work import encoder_flops
from reproduce.scales import PAPER_TABLE_2, Scale, TeacherShape

BACKWARD = 2
"""A backward pass costs two forward passes: gradients of inputs and of weights."""

TRAINING_BYTES = 16
"""Of a weight in training, in float32: itself, its gradient, the optimiser's two moments."""


@dataclass(frozen=True)
class Demand:
    """Trainings of one kind: of these architectures, with these settings, so often each."""

    what: str
    architectures: Sequence[Architecture]
    settings: DistillationSettings
    times: float = 1


@dataclass(frozen=True)
class Cost:
    """Of one training.

    Attributes:
        steps: of all phases.
        student: floating-point operations; in the stages of one block a step (the rolling cache).
        teacher: likewise. They are spent once for all students of a budget where the teacher's
            answers fit on disk, and by every student where they do not.
    """

    steps: int
    student: float
    teacher: float


def training_cost(
    architecture: Architecture, settings: DistillationSettings, config: RunConfig, teacher: TeacherShape
) -> Cost:
    """Steps and floating-point operations of one distillation.

    A stage step runs one teacher block forwards and one student block forwards and backwards; a
    pre-training step the whole of both, and the vocabulary only at masked positions.
    """
    family = config.student_family(teacher.vocab_size)
    depth, length, batch = family.depth(architecture), config.corpus.max_length, settings.batch_size
    whole = encoder_flops(architecture, family, batch, length)
    block = (whole - encoder_flops(architecture, replace(family, num_blocks=0), batch, length)) / depth
    taught = teacher_block(teacher, batch, length)
    masked = batch * _masked_per_sequence(config)
    head = 2 * masked * teacher.vocab_size
    student_head, teacher_head = head * architecture.hidden_size, head * teacher.hidden_size
    stages = depth * (settings.steps_per_block or 0)
    pretraining = settings.pretraining_steps or 0
    heads = settings.head_steps(depth)
    return Cost(
        settings.total_steps(depth),
        (1 + BACKWARD) * (stages * block + heads * student_head + pretraining * (whole + student_head)),
        stages * taught + heads * teacher_head + pretraining * (teacher.num_layers * taught + teacher_head),
    )


def teacher_block(teacher: TeacherShape, batch: int, length: int) -> float:
    """FLOPs of one block of a BERT encoder: four projections, attention, two feed-forward layers."""
    h = teacher.hidden_size
    return 2 * batch * length * (4 * h * h + 2 * length * h + 2 * h * teacher.intermediate_size)


def _masked_per_sequence(config: RunConfig) -> float:
    share = config.corpus.masked_fraction * config.corpus.max_length
    return min(share, config.corpus.predictions_cap or share)


def memory(architecture: Architecture, config: RunConfig, teacher: TeacherShape) -> tuple[float, float]:
    """Bytes that a training takes whatever the batch, and bytes for each sequence at a time.

    The first: the student in training and the teacher's encoder, in float32. The second: what
    autograd keeps of a sequence in float32, the inputs of all matrix products and the attention
    maps, and both models' logits at its masked positions. Buffers and fragmentation come on top.
    """
    family, length = config.student_family(teacher.vocab_size), config.corpus.max_length
    h, b = architecture.hidden_size, architecture.bottleneck_size
    blocks = teacher.num_layers * (4 * teacher.hidden_size**2 + 2 * teacher.hidden_size * teacher.intermediate_size)
    fixed = TRAINING_BYTES * count_parameters(architecture, family)
    fixed += 4 * (blocks + teacher.vocab_size * teacher.hidden_size)
    stacks = architecture.num_feedforward * (architecture.intermediate_size + 2 * b)
    per_token = family.depth(architecture) * (2 * h + 6 * b + architecture.num_heads * length + stacks)
    logits = 2 * _masked_per_sequence(config) * teacher.vocab_size
    return float(fixed), 4.0 * (length * per_token + logits)


def plan_lines(scale: Scale, config: RunConfig, demands: Sequence[Demand]) -> list[str]:
    """The plan for a terminal: budgets, parameters, trainings, memory, time."""
    teacher, baseline = scale.teacher, scale.students[0]
    lines = [
        f"scale {scale.name}: {scale.config.name}, template {config.space.template}, {len(scale.students)} students"
    ]
    depth = config.student_family(teacher.vocab_size).depth(baseline)
    for name, settings in (("flash", config.flash), ("regular", config.regular)):
        lines.append(
            f"{name}: {settings.total_steps(depth):,} steps ({settings.steps_per_block:,} for each of {depth} blocks, "
            f"{settings.pretraining_steps:,} of pre-training distillation), batches of {settings.batch_size:,} "
            f"sequences of {config.corpus.max_length} tokens"
        )
    lines += ["", *parameter_lines(scale, config), ""]
    own = taught = once = 0.0
    for demand in demands:
        costs = [training_cost(one, demand.settings, config, teacher) for one in demand.architectures]
        student, answers = (demand.times * sum(getattr(one, who) for one in costs) for who in ("student", "teacher"))
        own, taught, once = own + student, taught + answers, max(once, costs[0].teacher)
        count = demand.times * len(demand.architectures)
        lines.append(
            f"{demand.what}: {count:g} trainings of {costs[0].steps:,} steps, {student:.2e} FLOP of students and "
            f"{answers:.2e} of the teacher"
        )
    low, high = ((own + answers) / scale.flops_per_s / 3600 for answers in (once, taught))
    lines.append(
        f"all: {low:,.3g} hours of one machine at a sustained {scale.flops_per_s:.0e} FLOP/s where the teacher's "
        f"answers are kept (signals.disk_gib), {high:,.3g} where they are not; what is trained already is not trained "
        "again"
    )
    largest = max(scale.students, key=lambda one: memory(one, config, teacher)[1])
    fixed, each = memory(largest, config, teacher)
    batch = config.training.micro_batch_size or config.regular.batch_size
    lines.append(
        f"memory of one process at most ({largest}): {fixed / 1e9:.2f} GB and {each / 1e6:.1f} MB for each sequence "
        f"at a time, so {(fixed + batch * each) / 1e9:.1f} GB for {batch:,} (training.micro_batch_size sets how many)"
    )
    return lines


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
