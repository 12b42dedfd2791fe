"""Several students beside one teacher give what each gives alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import DivergedError, InputError
from flashdistill.core.progress import Silent
from flashdistill.distillation.distill import Distillation, Distilled
from flashdistill.distillation.settings import DistillationSettings, SignalSettings
from flashdistill.distillation.side_by_side import distill_side_by_side
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.models.teacher import Teacher
from flashdistill.testing.tiny import FAMILY, TinyData, tiny_teacher
from flashdistill.training.checkpoint import CheckpointStore

SETTINGS = DistillationSettings(
    steps_per_block=3, pretraining_steps=4, batch_size=4, optimizer="adamw", learning_rate=5e-3
)
ARCHITECTURES = [Architecture(16, 8, 2, 12, 2), Architecture(24, 16, 4, 16, 1), Architecture(8, 8, 1, 8, 1)]


class CountingTeacher(Teacher):
    """Counts how often the whole body runs for pre-training batches."""

    calls = 0

    def masked_features(self, inputs, positions):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().masked_features(inputs, positions)


def signals(remember_step: bool = True) -> TeacherSignals:
    teacher = CountingTeacher(tiny_teacher().model)
    return TeacherSignals(
        teacher, TinyData(1), TinyData(2), 4, SignalSettings(), SETTINGS.losses, remember_step=remember_step
    )


def students(
    source: TeacherSignals,
    architectures: Sequence[Architecture] = ARCHITECTURES,
    root: Path | None = None,
    progress: Silent | None = None,
) -> list[Distillation]:
    return [
        Distillation(
            architecture,
            FAMILY,
            source,
            SETTINGS,
            seed=3,
            store=CheckpointStore(root / str(architecture), every_seconds=1e9) if root else None,
            progress=progress or Silent(),
        )
        for architecture in architectures
    ]


def together_of(distillations: Sequence[Distillation]) -> list[Distilled | Exception]:
    return distill_side_by_side([lambda one=one: one for one in distillations])


def assert_same(found: Distilled | Exception, expected: Distilled) -> None:
    assert isinstance(found, Distilled)
    for name, value in expected.student.state_dict().items():
        assert torch.equal(found.student.state_dict()[name], value), name
    assert found.curves == expected.curves


def test_each_student_is_the_one_it_is_alone_and_the_teacher_answers_once() -> None:
    alone = [one.run() for one in students(signals(False))]
    source = signals()
    begun = source.teacher.calls  # type: ignore[attr-defined]
    together = together_of(students(source))
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)
    sampled = 4  # batches from which students are initialised
    assert source.teacher.calls - begun == sampled + SETTINGS.pretraining_steps  # type: ignore[attr-defined,operator]


class FailsAt(Distillation):
    """Diverges in its second stage."""

    def stage(self, index, inputs):  # type: ignore[no-untyped-def]
        if index == 1:
            raise self.failure
        return super().stage(index, inputs)

    failure: Exception = DivergedError("diverged: somewhere")


def test_a_failure_is_its_own_students_alone() -> None:
    source = signals()
    one, other = students(source, ARCHITECTURES[:2])
    failing = FailsAt(ARCHITECTURES[2], FAMILY, source, SETTINGS, seed=3)
    found = together_of([one, failing, other])
    assert isinstance(found[1], DivergedError)
    assert_same(found[0], students(signals(False), ARCHITECTURES[:1])[0].run())
    assert isinstance(found[2], Distilled)


def test_a_student_that_cannot_be_built_stops_nobody() -> None:
    source = signals()

    def unbuildable() -> Distillation:
        raise MemoryError

    [one] = students(source, ARCHITECTURES[:1])
    found = distill_side_by_side([unbuildable, lambda: one])
    assert isinstance(found[0], MemoryError)
    assert_same(found[1], students(signals(False), ARCHITECTURES[:1])[0].run())


@pytest.mark.parametrize("error", [OSError("no space left"), InputError("wrong")])
def test_what_is_nobodys_fault_stops_all(error: Exception) -> None:
    source = signals()
    failing = FailsAt(ARCHITECTURES[2], FAMILY, source, SETTINGS, seed=3)
    failing.failure = error
    with pytest.raises(type(error)):
        together_of([failing, *students(source, ARCHITECTURES[:1])])


class Interrupting(Silent):
    """Asks the process to stop during the n-th step of all."""

    def __init__(self, at: int):
        self.left = at

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self.left -= bool(note)
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 5, 12, 20])
def test_an_interrupt_leaves_a_checkpoint_of_every_student(tmp_path: Path, at: int) -> None:
    alone = [one.run() for one in students(signals(False), ARCHITECTURES[:2])]
    with pytest.raises(KeyboardInterrupt):
        together_of(students(signals(), ARCHITECTURES[:2], tmp_path, Interrupting(at)))
    begun = [architecture for architecture in ARCHITECTURES[:2] if list(tmp_path.glob(f"{architecture}/step-*"))]
    assert len(begun) == (1 if at == 1 else 2)
    resumed = together_of(students(signals(), ARCHITECTURES[:2], tmp_path))
    for found, expected in zip(resumed, alone, strict=True):
        assert_same(found, expected)
