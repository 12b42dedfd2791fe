"""Jobs that misbehave; worker processes import them from here."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from flashdistill.core.files import write_text
from flashdistill.core.progress import Silent
from flashdistill.execution.executor import Worker
from flashdistill.training.interrupt import postponed_stop

if TYPE_CHECKING:  # most of these jobs start without all of it
    from flashdistill.core.architecture import Architecture
    from flashdistill.trainings import Trained, Training
    from flashdistill.workbench import Workbench


def end_by(number: int, worker: Worker) -> None:
    worker.progress.start("doomed", 3)
    print("these are my last words", flush=True)
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(code: int, worker: Worker) -> None:
    os._exit(code)


def hog(gib: float, worker: Worker) -> None:
    """Use memory, and fork a child that uses some of it."""
    held = []
    for _ in range(int(gib * 64)):
        held.append(b"x" * (1024**3 // 64))
        time.sleep(0.01)
    time.sleep(60)


def killed_the_first_times(times: int, place: Path, number: int, worker: Worker) -> int:
    """Killed from outside, as far as anybody can tell, in the first attempts; tells how many there were."""
    count = int(place.read_text()) if place.exists() else 0
    place.write_text(str(count + 1))
    if count < times:
        os.kill(os.getpid(), number)
        time.sleep(60)
    return count + 1


def train(place: Path, worker: Worker) -> str:
    """Steps that can be stopped, as a training does it; until a file ``enough`` is there."""
    done = int(place.read_text()) if place.exists() else 0
    with postponed_stop() as stop:
        for step in range(done, 10_000):
            time.sleep(0.005)
            write_text(place.with_name("alive"), str(os.getpid()))
            if place.with_name("enough").exists():
                break
            if stop:
                place.write_text(str(step))
                raise KeyboardInterrupt
    return "trained"


def with_a_child(place: Path, worker: Worker) -> None:
    """Start a process of its own, and work with it for ever."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write_text(place, str(child.pid))
    time.sleep(600)


def complain(worker: Worker) -> None:
    try:
        raise ValueError("too hot")
    except ValueError as error:
        logging.getLogger("flashdistill.oven").warning("it is %s", "burning", exc_info=error)


def unpicklable(worker: Worker) -> object:
    return lambda: None


def threads_and_place(worker: Worker) -> tuple[int, int, int, str]:
    import torch

    return torch.get_num_threads(), worker.place, os.getpgrp(), str(Path.cwd())


def sabotaged(fault: str, victim: Architecture, once: Path, training: Training, bench: Workbench) -> list[Trained]:
    """A training with a fault in the middle of one architecture's pre-training distillation.

    Args:
        fault: the name of a signal, or ``memory``.
        once: a file that is there once the fault has happened; a fault that is to happen always removes it.
    """
    real = bench.progress

    class Saboteur(Silent):
        def __getattribute__(self, name: str) -> Any:
            return object.__getattribute__(self, name) if name == "advance" else getattr(real, name)

        def advance(self, task: str, steps: int = 1, note: str = "") -> None:
            real.advance(task, steps, note)
            if str(victim) in task and note.startswith("pre-training") and not once.exists():
                once.touch()
                if fault == "memory":
                    held = [b"x" * 2**24 for _ in range(96)]
                    time.sleep(60 + len(held))
                os.kill(os.getpid(), getattr(signal, fault))
                time.sleep(60)

    from flashdistill.trainings import train

    bench.progress = Saboteur()
    return train(training, bench)


def killed_with_its_worker(place: Path, worker: Worker) -> int:
    """Take the worker on a cluster with it, the first time; tells which attempt it is."""
    count = int(place.read_text()) if place.exists() else 0
    write_text(place, str(count + 1))
    if not count:
        nursery = psutil.Process(os.getppid())
        os.kill(nursery.ppid(), signal.SIGKILL)
        time.sleep(60)
    return count + 1


def contents(directory: Path, worker: Worker) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def summed_ranks(worker: Worker) -> list[float]:
    """What several processes find out about each other."""
    from flashdistill.training.compute import open_compute
    from flashdistill.training.settings import TrainingSettings

    compute = open_compute(TrainingSettings.model_validate({"device": "cpu"}))
    worker.progress.message(f"process {compute.rank} of {compute.world_size}")
    return compute.sum([1.0, compute.rank])


def fails_together(worker: Worker) -> None:
    raise ValueError("too hot")
