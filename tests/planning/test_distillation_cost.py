"""The formulas against PyTorch's own count of what really runs, step by step and over whole distillations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.distillation.distill import Distillation
from flashdistill.distillation.settings import DistillationSettings, SignalSettings
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models.teacher import Teacher
from flashdistill.planning.distillation_cost import Circumstances, DistillationCost, distillation_cost
from flashdistill.planning.kept_answers import AnswerSizes, blocks_run, room_for
from flashdistill.planning.step_flops import BatchShape, StudentSteps
from flashdistill.planning.teacher_shape import TeacherShape, shape_of
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, TinyData, tiny_teacher

LENGTH, BATCH, STAGE_STEPS, PRETRAINING_STEPS = 12, 4, 2, 2
UNEVEN = Architecture(16, 12, 3, 12, 1)
"""Three heads beside the teacher's four: their maps are mixed."""


def settings_with(**changes: Any) -> DistillationSettings:
    given = {
        "steps_per_block": STAGE_STEPS, "pretraining_steps": PRETRAINING_STEPS, "batch_size": BATCH,
        "optimizer": "adamw",
    }  # fmt: skip
    return DistillationSettings.model_validate(given | changes)


def signals_of(
    settings: DistillationSettings, kept: SignalSettings, teacher: Teacher, directory: Path | None = None
) -> TeacherSignals:
    data = TinyData(length=LENGTH), TinyData(1, length=LENGTH)
    assert teacher.blocks.separable(LENGTH)  # which is checked by running it, once
    return TeacherSignals(
        teacher,
        *data,  # type: ignore[arg-type]
        BATCH,
        kept,
        settings.losses,
        directory,
        pretraining_steps=PRETRAINING_STEPS,
    )


def batches(kind: str, settings: DistillationSettings) -> BatchShape:
    """The mean batch of a phase: every count is linear in the masked tokens."""
    seed, count = (0, STAGE_STEPS) if kind == "stage" else (1, PRETRAINING_STEPS)
    data = TinyData(seed, LENGTH)
    masked = sum(len(data.batch(step, settings.batch_size).masked_positions) for step in range(count)) / count
    return BatchShape(settings.batch_size, LENGTH, masked)


def counted(work: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def expected(
    settings: DistillationSettings, kept: SignalSettings, one: Architecture, family: StudentFamily, teacher: Teacher
) -> DistillationCost:
    shape = shape_of(teacher.model.config)
    stage = batches("stage", settings)
    sizes = AnswerSizes.of(settings, kept, shape, stage, shape.num_layers)
    room = room_for(sizes, kept, PRETRAINING_STEPS, one, stage)
    logits = batches("pretraining", settings)
    around = Circumstances(family, shape, stage, logits, tuple(range(shape.num_layers)), room, kept.top_k)
    return distillation_cost(one, settings, around)


REGIMES = {
    "answers on disk": SignalSettings(),
    "hidden states": SignalSettings(disk_gib=0),
    "nothing kept": SignalSettings(disk_gib=0, memory_gib=0),
}
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("paper", {}, "answers on disk"),
    ("paper", {}, "hidden states"),
    ("paper", {}, "nothing kept"),
    ("no head transfer", {"transfer_head": False}, "answers on disk"),
    ("soft freeze", {"preset": "mobilebert", "transfer_head": True}, "hidden states"),
    ("soft freeze", {"preset": "mobilebert"}, "nothing kept"),
    ("new batches", {"stage_batches": "new"}, "answers on disk"),
    ("new batches", {"stage_batches": "new"}, "hidden states"),
    ("no attention, no next sentences", {"losses": {"attention": 0.0, "nsp": 0.0}}, "hidden states"),
    ("words alone", {"losses": {"alpha": 1.0}}, "answers on disk"),
    ("relations", {"losses": {"relations": 1.0, "relation_heads": 4}}, "hidden states"),
]


def check(
    settings: DistillationSettings,
    kept: SignalSettings,
    directory: Path,
    one: Architecture = ARCHITECTURE,
    family: StudentFamily = FAMILY,
    rel: float = 1e-12,
) -> None:
    teacher = tiny_teacher()
    signals = signals_of(settings, kept, teacher, directory if kept.disk_gib else None)
    found = counted(Distillation(one, family, signals, settings, seed=3).run)
    cost = expected(settings, kept, one, family, teacher)
    assert found == pytest.approx(cost.student + cost.teacher + cost.teacher_once + cost.teacher_head, rel=rel)


@pytest.mark.parametrize(
    ("variant", "changes", "regime"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_whole_distillation_is_counted_to_the_last_operation(
    variant: str, changes: dict[str, Any], regime: str, tmp_path: Path
) -> None:
    # Later batches, which have other numbers of masked tokens, play a part where each stage has its own.
    check(settings_with(**changes), REGIMES[regime], tmp_path, rel=2e-3 if variant == "new batches" else 1e-12)


def test_other_students_are_counted_too(tmp_path: Path) -> None:
    """Head counts that do not fit; the paper's own block; a student deeper than its teacher."""
    kept = REGIMES["hidden states"]
    check(settings_with(), kept, tmp_path, UNEVEN)
    check(settings_with(), kept, tmp_path, family=StudentFamily("autodistill", 2, FAMILY.vocab_size, 8, 32))
    check(settings_with(), kept, tmp_path, family=StudentFamily("mobilebert", 5, FAMILY.vocab_size, 8, 32))


def test_most_probable_tokens_need_no_head_afterwards(tmp_path: Path) -> None:
    check(settings_with(), SignalSettings(top_k=5), tmp_path)


def test_the_second_student_pays_for_itself_alone(tmp_path: Path) -> None:
    settings, kept, teacher = settings_with(), SignalSettings(), tiny_teacher()
    for seed in (1, 2):
        signals = signals_of(settings, kept, teacher, tmp_path)
        found = counted(Distillation(ARCHITECTURE, FAMILY, signals, settings, seed).run)
    cost = expected(settings, kept, ARCHITECTURE, FAMILY, teacher)
    assert cost.teacher == 0
    assert found == pytest.approx(cost.student + cost.teacher_head, rel=1e-12)


def test_a_stage_by_hand() -> None:
    """Every product of one block counted on paper: three passes, but for the layers that the input enters."""
    student = StudentSteps(
        Architecture(32, 16, 1, 96, 2),
        StudentFamily("mobilebert", 3, 50, 32),
        TeacherShape(3, 8, 16, 50, 2),
        settings_with().losses,
    )
    batch = BatchShape(4, 16, 8.0)
    # Bottleneck, shared bottleneck, value; query and key; output, feed-forward networks, output bottleneck, attention.
    entered = 3 * 32 * 16
    per_token = entered + 2 * 16 * 16 + 16 * 16 + 2 * 2 * 16 * 96 + 16 * 32 + 2 * 16 * 16
    assert student.block(batch) == 2 * 64 * per_token
    adapters = 32 * 8 + 16 * 16  # to the teacher's width, and the scores once more
    assert student.stage(batch, 1, soft=False) == 2 * 64 * (3 * (per_token + adapters) - entered)
    assert student.stage(batch, 1, soft=True) == 2 * 64 * (3 * (2 * per_token + adapters) - entered)
    assert student.head(batch) == 2 * 8 * 32 * (32 + 50)


@pytest.mark.parametrize(
    ("taught", "kept", "blocks"),
    [
        ([0, 1, 2], True, 3),  # one block a stage, whatever the stage
        ([0, 1, 2], False, 1 + 2 + 3),
        ([2, 5], True, 6),
        ([0, 0, 1, 1], True, 1 + 1 + 1 + 1),  # the same block again begins before it
    ],
)
def test_blocks_of_the_teacher_for_one_batch(taught: list[int], kept: bool, blocks: int) -> None:
    assert blocks_run(taught, kept) == blocks
