"""SIGKILL of any process of a search at random times: the final study is that of the undisturbed search."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults import commands
from tests.faults.commands import ON_RAY, finish, outcome, prepare, start, victims
from tests.faults_catalogue import fault

SETTINGS = [*commands.SETTINGS, "search.trials=2"]

TIMES = 10
"""Kills of each kind of process; the first of each is part of the quick half."""


@dataclass(frozen=True)
class Undisturbed:
    """A search that nobody killed.

    Attributes:
        directory: its text, configuration, run and cache.
        seconds: from its start to its end, the teacher being there already.
    """

    directory: Path
    seconds: float
    outcome: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    directory = tmp_path_factory.mktemp("undisturbed")
    prepare(directory)
    assert finish(start(directory, "explore", *SETTINGS, "search.trials=0"), directory) == 0
    shutil.rmtree(directory / "run")
    forget_measurements(directory / "cache")
    began = time.monotonic()
    assert finish(start(directory, "explore", *SETTINGS), directory) == 0
    seconds = time.monotonic() - began
    forget_measurements(directory / "cache")
    return Undisturbed(directory, seconds, outcome(directory))


def forget_measurements(cache: Path) -> None:
    """Have everything measured anew: what is in the cache needs no process that could be killed."""
    for kept in cache.glob("measurements*"):
        shutil.rmtree(kept)


def kill_one(undisturbed: Undisturbed, directory: Path, kind: str, delay: float, *overrides: str) -> bool:
    """Run the search, killing one process of a kind at or soon after a time; whether there was one."""
    prepare(directory)
    shutil.copytree(undisturbed.directory / "cache", directory / "cache")
    process = start(directory, "explore", *SETTINGS, *overrides)
    time.sleep(delay)
    killed = False
    while not killed and process.poll() is None:
        for victim in victims(process.pid, kind)[:1]:
            try:
                victim.send_signal(signal.SIGKILL)
                killed = True
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.01)
    code = finish(process, directory)
    if killed and kind == "driver":
        assert code == -signal.SIGKILL
        code = finish(start(directory, "explore", *SETTINGS), directory)
    assert code == 0, (directory / "stderr").read_text(encoding="utf-8")
    return killed


@fault(1, "SIGKILL of the driver, a worker or the measurement process at a random time of a search")
@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=[pytest.mark.slow] if number else []) for number in range(TIMES)]
)
@pytest.mark.parametrize("kind", ["driver", "worker", "measurement"])
def test_a_kill_changes_nothing(undisturbed: Undisturbed, tmp_path: Path, kind: str, number: int) -> None:
    moment = random.Random(f"{kind} {number}").random()
    for attempt in range(5):
        directory = tmp_path / str(attempt)
        if kill_one(undisturbed, directory, kind, moment * undisturbed.seconds):
            break
        moment /= 2  # it was over sooner this time
    else:
        raise AssertionError("no process to kill was found in five searches")
    assert outcome(directory) == undisturbed.outcome


@pytest.mark.slow
@fault(16, "SIGKILL of a Ray worker at a random time of a search", "the final study is the undisturbed one's")
@pytest.mark.parametrize("number", range(2))
def test_a_lost_ray_worker_changes_nothing(undisturbed: Undisturbed, tmp_path: Path, number: int) -> None:
    pytest.importorskip("ray")
    moment = random.Random(f"Ray {number}").random()
    assert kill_one(undisturbed, tmp_path, "Ray worker", moment * undisturbed.seconds, ON_RAY)
    assert outcome(tmp_path) == undisturbed.outcome
