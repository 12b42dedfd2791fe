"""Searches in which something goes wrong, from beginning to end."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from flashdistill import pipeline
from flashdistill.config import RunConfig, load_config
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.progress import Silent
from flashdistill.core.trial import TrialState
from flashdistill.delivery.record import RunRecord
from flashdistill.training import loop
from tests.faults_catalogue import fault
from tests.tiny_run import write_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, configuration, and a cache that all these searches share."""
    directory = tmp_path_factory.mktemp("searches")
    write_run(directory)
    return directory


def search(place: Path, output: str, *overrides: str, progress: Silent | None = None) -> RunRecord:
    pipeline.run(config(place, output, *overrides), progress or Silent(), until="search")
    return RunRecord.load(place / output)


def config(place: Path, output: str, *overrides: str) -> RunConfig:
    source = f'corpus.source={{files: "{place}/text*.txt"}}'
    return load_config(
        place / "tiny.yaml", [source, f"output={place / output}", f"cache={place / 'cache'}", *overrides]
    )


class Watching(Silent):
    """Knows which student is in training."""

    def __init__(self) -> None:
        self.students: list[str] = []

    def start(self, task: str, total: int | None = None) -> None:
        if task.startswith("distil "):
            self.students.append(task.removeprefix("distil "))


@fault(6, "loss of NaN or infinity in one student's training, in a search")
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
def test_a_student_that_diverges_is_a_failed_trial(place: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    watching, real = Watching(), loop._backward

    def spoilt(*arguments: Any) -> float:
        loss = real(*arguments)
        return value if len(watching.students) == 2 else loss

    monkeypatch.setattr(loop, "_backward", spoilt)
    record = search(place, f"diverging {value}", progress=watching)
    states = [trial.state for trial in record.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAILED, TrialState.COMPLETE, TrialState.COMPLETE]
    failed = record.trials[1]
    assert failed.reason.startswith("diverged")
    assert failed.number not in record.front
    assert all(one.finite for trial in record.trials for one in trial.measurements.values())


ONE_POINT = (
    "space={num_blocks: 2, embedding_size: 8, hidden_size: [16], bottleneck_size: [8], num_heads: [1], "
    "intermediate_size: [16], num_feedforward: [1]}"
)


@fault(13, "a space of one point, more trials than points, no trials", "the search ends when all are tried")
@pytest.mark.parametrize(
    ("overrides", "students"),
    [
        ([ONE_POINT, "search.trials=5"], ["16_8_1_16_1"]),
        ([ONE_POINT, "search.trials=5", "baseline=16_8_1_16_1"], []),
        (["search.trials=0"], []),
        ([ONE_POINT, "search.trials=1", "search.algorithm=nsga2"], ["16_8_1_16_1"]),
    ],
    ids=["one point", "the baseline is the only point", "no trials", "a population of one"],
)
def test_degenerate_searches_end(
    place: Path, request: pytest.FixtureRequest, overrides: list[str], students: list[str]
) -> None:
    record = search(place, request.node.callspec.id, *overrides)
    assert [str(trial.architecture) for trial in record.students] == students
    assert all(trial.state is TrialState.COMPLETE for trial in record.trials)


@fault(5, "study database deleted, emptied or cut before a run is resumed")
@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut"])
def test_a_run_does_not_go_on_without_its_study(place: Path, damage: str) -> None:
    if not (place / "whole").exists():
        search(place, "whole", "search.trials=1")
    run = place / damage
    shutil.copytree(place / "whole", run)
    database = run / "study.db"
    if damage == "deleted":
        database.unlink()
    else:
        database.write_bytes(database.read_bytes()[: 0 if damage == "emptied" else database.stat().st_size // 2])
    with pytest.raises(RunDirectoryError, match=r"study\.db is (gone or empty|damaged).*restore it from a backup"):
        search(place, damage, "search.trials=1")
    assert RunRecord.load(run).trials, "what was reported is still there"
