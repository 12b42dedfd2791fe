"""The sweep on a function with a known best: all combinations or a search, resumed in any trial."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url

from flashdistill.core.errors import DivergedError, InputError
from flashdistill.evaluation.finetuning import sweep as module
from flashdistill.evaluation.finetuning.settings import Sweep, TuningSettings
from flashdistill.evaluation.finetuning.sweep import STUDY_FILE, SweepResult, combinations, run_sweep
from flashdistill.training.compute import Compute
from tests.progress_doubles import KilledError, Messages

SMALL = Sweep(learning_rate=[1e-5, 1e-4], epochs=[2, 3], trials=4)
LARGE = Sweep(learning_rate=[1e-5, 2e-5, 5e-5, 1e-4], epochs=[2, 3, 4], batch_size=[16, 32], trials=9)


class Runs:
    """Best at 5e-5, 3 epochs, batches of 16. Is killed in the n-th call; some rates diverge."""

    def __init__(self, killed_in: int | None = None, diverging: tuple[float, ...] = ()):
        self.tried: list[tuple[float, float, int]] = []
        self.killed_in, self.diverging = killed_in, diverging

    def __call__(self, settings: TuningSettings) -> float:
        self.tried.append((settings.learning_rate, settings.epochs, settings.batch_size))
        if len(self.tried) == self.killed_in:
            raise KilledError
        if settings.learning_rate in self.diverging:
            raise DivergedError("diverged: the loss is nan")
        distance = abs(math.log(settings.learning_rate / 5e-5)) + abs(settings.epochs - 3)
        return 1 - distance - 0.1 * (settings.batch_size != 16)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Optuna's tables, which take longer to make than everything else here."""
    path = tmp_path_factory.mktemp("blank") / STUDY_FILE
    RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def _quick_studies(blank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_blank(url: str, **options: Any) -> RDBStorage:
        if not (file := Path(make_url(url).database or "")).exists():
            shutil.copy(blank, file)
        return RDBStorage(url, **options)

    monkeypatch.setattr(module, "RDBStorage", from_blank)


def sweep(choices: Sweep, runs: Runs, directory: Path, goal: Any = "maximize", progress: Any = None) -> SweepResult:
    settings = TuningSettings(batch_size=16, weight_decay=0.3)
    return run_sweep(settings, choices, goal, 0, directory, runs, Compute(), progress or Messages())


def test_all_combinations_are_tried_where_they_fit(tmp_path: Path) -> None:
    runs = Runs()
    result = sweep(SMALL, runs, tmp_path)
    assert runs.tried == [(1e-5, 2, 16), (1e-5, 3, 16), (1e-4, 2, 16), (1e-4, 3, 16)]
    assert (result.best.learning_rate, result.best.epochs, result.best.weight_decay) == (1e-4, 3, 0.3)
    assert [trial.value for trial in result.trials] == [Runs()(trial.settings) for trial in result.trials]
    worst = sweep(SMALL, Runs(), tmp_path / "worst", goal="minimize")
    assert (worst.best.learning_rate, worst.best.epochs) == (1e-5, 2)


def test_beyond_the_trials_it_searches_and_never_repeats_itself(tmp_path: Path) -> None:
    runs = Runs()
    result = sweep(LARGE, runs, tmp_path)
    assert len(runs.tried) == len(set(runs.tried)) == 9
    best = max(trial.value for trial in result.trials if trial.value is not None)
    assert Runs()(result.best) == best


@pytest.mark.parametrize("choices", [SMALL, LARGE], ids=["all", "search"])
def test_a_killed_sweep_goes_on_with_the_trial_it_was_in(tmp_path: Path, choices: Sweep) -> None:
    killed_in = 3
    whole = Runs()
    expected = sweep(choices, whole, tmp_path / "whole")
    first, second = Runs(killed_in), Runs()
    with pytest.raises(KilledError):
        sweep(choices, first, tmp_path / "killed")
    assert sweep(choices, second, tmp_path / "killed") == expected
    assert first.tried == whole.tried[:killed_in]
    assert second.tried == whole.tried[killed_in - 1 :]
    third = Runs()
    assert sweep(choices, third, tmp_path / "killed") == expected
    assert third.tried == []


def test_a_combination_that_diverges_is_passed_over(tmp_path: Path) -> None:
    messages = Messages()
    result = sweep(SMALL, Runs(diverging=(1e-4,)), tmp_path, progress=messages)
    assert (result.best.learning_rate, result.best.epochs) == (1e-5, 3)
    assert [trial.value is None for trial in result.trials] == [False, False, True, True]
    assert "learning_rate 0.0001, epochs 2: diverged: the loss is nan" in messages.texts
    again = sweep(SMALL, Runs(killed_in=1), tmp_path)
    assert again == result
    with pytest.raises(DivergedError, match="every combination of finetune.sweep diverged"):
        sweep(SMALL, Runs(diverging=(1e-4, 1e-5)), tmp_path / "all")


def test_repeated_choices_count_once() -> None:
    assert combinations(Sweep(epochs=[2, 2], batch_size=[8])) == [(("epochs", 2), ("batch_size", 8))]


def test_no_choices_and_impossible_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finetune.sweep has no choices; give a list for one of learning_rate, epochs"):
        sweep(Sweep(), Runs(), tmp_path)
    with pytest.raises(InputError, match="finetune.sweep.learning_rate: got -1"):
        sweep(Sweep(learning_rate=[1e-4, -1]), Runs(), tmp_path)
