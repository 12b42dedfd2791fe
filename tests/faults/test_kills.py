"""SIGKILL of the processes of a search at random times: the final study is that of the undisturbed search."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults import commands
from tests.faults.commands import ON_RAY, finish, outcome, prepare, start, victims
from tests.faults_catalogue import fault

SETTINGS = [*commands.SETTINGS, "search.trials=3"]

KINDS = ("driver", "worker", "measurement")

SEARCHES = 10
"""In each of them one process of each kind is killed; the first is part of the quick half."""


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


def disturbed(
    undisturbed: Undisturbed, directory: Path, kinds: Sequence[str], chance: random.Random, *overrides: str
) -> list[str]:
    """Run a search in which one process of each kind is killed, one after the other, each after a random while.

    Where there is none of that kind, the next one to appear is killed. Whoever dies with the driver, the
    same command goes on.

    Returns:
        the kinds of which none was found before the search ended.
    """
    prepare(directory)
    shutil.copytree(undisturbed.directory / "cache", directory / "cache")
    process = start(directory, "explore", *SETTINGS, *overrides)
    missed = []
    for kind in kinds:
        time.sleep(chance.uniform(0, undisturbed.seconds / 3))
        if not kill_one(process, kind):
            missed.append(kind)
        elif kind == "driver":
            assert finish(process, directory) == -signal.SIGKILL
            process = start(directory, "explore", *SETTINGS, *overrides)
    code = finish(process, directory)
    assert code == 0, (directory / "stderr").read_text(encoding="utf-8")
    return missed


def kill_one(driver: subprocess.Popen[str], kind: str) -> bool:
    """Kill a process of this kind as soon as there is one; whether there was before the search ended."""
    while driver.poll() is None:
        for victim in victims(driver.pid, kind)[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


def check_that_kills_change_nothing(
    undisturbed: Undisturbed, directory: Path, kinds: Sequence[str], chance: random.Random, *overrides: str
) -> None:
    """As many searches as it takes until one of each kind was killed."""
    for search in range(5):
        kinds = disturbed(undisturbed, directory / str(search), kinds, chance, *overrides)
        assert outcome(directory / str(search)) == undisturbed.outcome
        if not kinds:
            return
    raise AssertionError(f"no process to kill was found in five searches: {', '.join(kinds)}")


@fault(1, "SIGKILL of the driver, a worker and the measurement process at random times of a search")
@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=[pytest.mark.slow] if number else []) for number in range(SEARCHES)]
)
def test_kills_change_nothing(
    undisturbed: Undisturbed, tmp_path: Path, number: int, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(number)
    kinds = chance.sample(KINDS, len(KINDS))
    check_that_kills_change_nothing(undisturbed, tmp_path, kinds, chance)
    record_property("injections", len(kinds))


@pytest.mark.slow
@fault(16, "SIGKILL of a Ray worker at a random time of a search", "the final study is the undisturbed one's")
@pytest.mark.parametrize("number", range(2))
def test_a_lost_ray_worker_changes_nothing(undisturbed: Undisturbed, tmp_path: Path, number: int) -> None:
    pytest.importorskip("ray")
    check_that_kills_change_nothing(undisturbed, tmp_path, ["Ray worker"], random.Random(number), ON_RAY)
