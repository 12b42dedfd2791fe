"""Looking at a student on the way: it leaves no trace, may end the training, and is not lost by a kill."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flashdistill.core.architecture import Architecture
from flashdistill.distillation.distill import Distillation, Distilled
from flashdistill.distillation.inspection import SHARES, Inspection, Judge, StoppedEarlyError
from flashdistill.distillation.settings import DistillationSettings, SignalSettings
from flashdistill.distillation.side_by_side import distill_side_by_side
from flashdistill.distillation.signals import TeacherSignals
from flashdistill.evaluation.pretraining_accuracy import pretraining_accuracy, student_predictor
from flashdistill.testing.tiny import FAMILY, TinyData, tiny_teacher
from flashdistill.training.checkpoint import CheckpointStore
from flashdistill.training.compute import Compute
from tests.faults_catalogue import fault
from tests.progress_doubles import KilledError, Killer

SETTINGS = DistillationSettings(
    steps_per_block=2, pretraining_steps=8, batch_size=4, optimizer="adamw", learning_rate=5e-3
)
ARCHITECTURES = [Architecture(16, 8, 2, 12, 2), Architecture(24, 16, 4, 16, 1)]
STEPS_BEFORE = 2 * 2 + 4
"""Of the two blocks and the head."""


def distillation(architecture: Architecture = ARCHITECTURES[0], **changes: Any) -> Distillation:
    signals = TeacherSignals(tiny_teacher(), TinyData(1), TinyData(2), 4, SignalSettings(), SETTINGS.losses)
    return Distillation(architecture, FAMILY, signals, SETTINGS, seed=3, **changes)


class Recorder:
    """Scores as the search does, disturbs what it can, and stops where it is told to."""

    def __init__(self, stop_at: float = 2.0):
        self.stop_at = stop_at
        self.scores: dict[float, float] = {}

    def __call__(self, student: Any, share: float) -> str:
        assert not student.training
        predict = student_predictor(student, with_nsp=True)
        self.scores[share] = pretraining_accuracy(predict, TinyData().validation_batches(8))["mlm_loss"].value
        torch.rand(3)
        return f"hopeless at {share}" if share >= self.stop_at else ""


def assert_same(found: Distilled | Exception, expected: Distilled) -> None:
    assert isinstance(found, Distilled)
    for name, value in expected.student.state_dict().items():
        assert torch.equal(found.student.state_dict()[name], value), name
    assert found.curves == expected.curves


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (8, {2: 0.25, 4: 0.5, 6: 0.75}),
        (1000, {250: 0.25, 500: 0.5, 750: 0.75}),
        (3, {1: 0.25, 2: 0.5}),
        (2, {1: 0.25}),
        (1, {}),
        (0, {}),
    ],
)
def test_the_steps_of_the_looks(total: int, expected: dict[int, float]) -> None:
    assert Inspection().steps(total) == expected


def test_training_is_bit_for_bit_the_same_with_and_without_looks() -> None:
    torch.manual_seed(7)
    alone = distillation()
    alone.student.train()
    expected = alone.run()
    after = torch.rand(1)
    torch.manual_seed(7)
    recorder = Recorder()
    looked_at = distillation(inspection=Inspection(recorder))
    looked_at.student.train()
    assert_same(looked_at.run(), expected)
    assert torch.equal(torch.rand(1), after), "the random generator went on as if nobody had looked"
    assert list(recorder.scores) == list(SHARES)
    assert len(set(recorder.scores.values())) == 3, "the student learnt in between"


def test_modes_are_given_back() -> None:
    student = distillation().student
    student.train()
    student.cls.eval()
    modes = [module.training for module in student.modules()]
    Inspection(Recorder()).look(student, 0.5, Compute())
    assert [module.training for module in student.modules()] == modes


def test_the_judge_ends_the_training() -> None:
    recorder = Recorder(stop_at=0.5)
    with pytest.raises(StoppedEarlyError, match=r"^hopeless at 0.5$"):
        distillation(inspection=Inspection(recorder)).run()
    assert list(recorder.scores) == [0.25, 0.5]


def test_without_an_inspection_nobody_looks() -> None:
    assert isinstance(distillation().run(), Distilled)


def test_one_of_several_is_stopped_and_the_others_go_on() -> None:
    def build(architecture: Architecture, judge: Judge) -> Callable[[], Distillation]:
        return lambda: distillation(architecture, inspection=Inspection(judge))

    recorders = [Recorder(stop_at=0.5), Recorder()]
    found = distill_side_by_side([build(*pair) for pair in zip(ARCHITECTURES, recorders, strict=True)])
    assert isinstance(found[0], StoppedEarlyError)
    assert_same(found[1], distillation(ARCHITECTURES[1]).run())
    assert [list(one.scores) for one in recorders] == [[0.25, 0.5], [0.25, 0.5, 0.75]]


def test_a_judge_that_fails_is_the_students_failure() -> None:
    def judge(student: Any, share: float) -> str:
        raise RuntimeError("out of something")

    [found] = distill_side_by_side([lambda: distillation(inspection=Inspection(judge))])
    assert isinstance(found, RuntimeError)


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Distilled, dict[float, float]]:
    """The student of a training that nothing interrupts, and its scores on the way."""
    recorder = Recorder()
    return distillation(inspection=Inspection(recorder)).run(), recorder.scores


@pytest.mark.parametrize("pretraining_step", [2, 5])
@fault(1, "break of a distillation that is looked at on the way", "the same looks")
def test_killed_and_resumed_every_look_is_taken_as_if_nothing_had_happened(
    tmp_path: Path, undisturbed: tuple[Distilled, dict[float, float]], pretraining_step: int
) -> None:
    whole, scores = undisturbed
    recorder = Recorder()
    killed = distillation(
        inspection=Inspection(recorder),
        store=CheckpointStore(tmp_path, every_seconds=0),
        progress=Killer(STEPS_BEFORE + pretraining_step),
    )
    with pytest.raises(KilledError):
        killed.run()
    resumed = distillation(inspection=Inspection(recorder), store=CheckpointStore(tmp_path, every_seconds=0))
    assert_same(resumed.run(), whole)
    assert recorder.scores == scores


@fault(1, "break between a checkpoint and the look at it", "the same looks")
def test_killed_between_a_checkpoint_and_the_look_at_it(
    tmp_path: Path, undisturbed: tuple[Distilled, dict[float, float]]
) -> None:
    """The checkpoint is of the very step at which the student is to be looked at."""

    def killing(student: Any, share: float) -> str:
        raise KilledError

    with pytest.raises(KilledError):
        distillation(inspection=Inspection(killing), store=CheckpointStore(tmp_path, every_seconds=0)).run()
    recorder = Recorder()
    distillation(inspection=Inspection(recorder), store=CheckpointStore(tmp_path, every_seconds=0)).run()
    assert recorder.scores == undisturbed[1]


class Pair:
    """Two processes' ends of a broadcast, one after the other: the main one speaks, the other hears."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def main(self) -> Compute:
        compute = Compute(rank=0, world_size=1)
        object.__setattr__(compute, "from_main", lambda value=None: self.said.append(value) or value)
        return compute

    def other(self) -> Compute:
        compute = Compute(rank=1, world_size=2)
        object.__setattr__(compute, "from_main", lambda value=None: self.said.pop(0))
        return compute


def test_other_processes_follow_the_main_one() -> None:
    student, pair = distillation().student, Pair()
    for judge, error in ((Recorder(stop_at=0.5), StoppedEarlyError), (Recorder(), None)):
        for inspection, compute in ((Inspection(judge), pair.main()), (Inspection(), pair.other())):
            if error is None:
                inspection.look(student, 0.5, compute)
            else:
                with pytest.raises(error, match=r"hopeless at 0\.5"):
                    inspection.look(student, 0.5, compute)


def test_other_processes_are_not_left_waiting_when_scoring_fails() -> None:
    def judge(student: Any, share: float) -> str:
        raise RuntimeError("out of something")

    student, pair = distillation().student, Pair()
    with pytest.raises(RuntimeError, match="out of something"):
        Inspection(judge).look(student, 0.5, pair.main())
    with pytest.raises(Exception, match="main process could not score"):
        Inspection().look(student, 0.5, pair.other())


_TWO_PROCESSES = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch
from flashdistill.distillation.inspection import Inspection, StoppedEarlyError
from flashdistill.training.compute import open_compute
from flashdistill.training.settings import TrainingSettings
from tests.distillation.test_inspection import Recorder, distillation

child = os.fork()
os.environ.update(RANK=str(int(child == 0)), LOCAL_RANK=str(int(child == 0)))
torch.set_num_threads(1)
compute = open_compute(TrainingSettings(device="cpu"))
recorder = Recorder(stop_at=0.5)
try:
    distillation(compute=compute, inspection=Inspection(recorder if compute.is_main else None)).run()
except StoppedEarlyError as stopped:
    os.write(1, f"process {compute.rank} {stopped} {sorted(recorder.scores)}\\n".encode())
distillation(compute=compute).run()
os.write(1, f"process {compute.rank} goes on\\n".encode())
compute.close()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""


def test_two_processes_stop_together_and_go_on_to_the_next() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _TWO_PROCESSES],
        env=os.environ | address | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert sorted(done.stdout.splitlines()) == [
        "process 0 goes on",
        "process 0 hopeless at 0.5 [0.25, 0.5]",
        "process 1 goes on",
        "process 1 hopeless at 0.5 []",
    ], done.stderr
