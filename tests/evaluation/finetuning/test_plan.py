"""Models, tasks and seeds as one plan that is done once, whatever interrupts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flashdistill.core.errors import DivergedError, InputError
from flashdistill.evaluation.finetuning import plan as module
from flashdistill.evaluation.finetuning.heads import load_finetuned
from flashdistill.evaluation.finetuning.plan import TuningPlan
from flashdistill.evaluation.finetuning.settings import FinetuneSettings, Sweep
from tests.evaluation.finetuning.tiny_task import SETTINGS, polarity, save_bert, strength
from tests.faults_catalogue import fault
from tests.progress_doubles import KilledError, Killer

FAST = SETTINGS.model_copy(update={"epochs": 0.5})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    body = save_bert(tmp_path_factory.mktemp("bert"))
    return {"one": body, "org/two": body}


def test_everything_is_done_once(tmp_path: Path, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = TuningPlan(models, [polarity(), strength()], range(2), FAST)
    with pytest.raises(KilledError):
        plan.run(tmp_path, progress=Killer(8))
    result = plan.run(tmp_path)
    found = {(s.model, s.task, s.split, s.metric, s.seed) for s in result.scores}
    assert len(result.scores) == len(found) == 2 * 2 * (2 * 2 + 2)  # polarity has a test split
    assert not list(tmp_path.glob("**/work"))
    monkeypatch.setattr(module, "finetune", None)
    again = plan.run(tmp_path)
    assert again == result
    # Of both seeds only the better one's weights are kept.
    for key, record in result.best.items():
        assert record.selecting == max(one.selecting for one in result.records[key])
        assert [one.model.exists() for one in result.records[key]].count(True) == 1
        load_finetuned(record.model)


def test_the_sweep_comes_first_and_its_best_is_not_trained_again(
    tmp_path: Path, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[float, int]] = []
    real = module.finetune

    def counted(source: Any, task: Any, settings: Any, seed: int, *rest: Any) -> Any:
        calls.append((settings.learning_rate, seed))
        return real(source, task, settings, seed, *rest)

    monkeypatch.setattr(module, "finetune", counted)
    sweep = Sweep(learning_rate=[1e-7, 1e-2], trials=2)
    plan = TuningPlan({"one": models["one"]}, [polarity()], [0, 1], SETTINGS, sweep=sweep)
    result = plan.run(tmp_path)
    assert calls == [(1e-7, 0), (1e-2, 0), (1e-2, 1)]
    assert result.sweeps["one", "polarity"].best.learning_rate == 1e-2
    assert [record.settings.learning_rate for record in result.records["one", "polarity"]] == [1e-2, 1e-2]
    assert len(list(tmp_path.glob("**/model.safetensors"))) == 1
    assert plan.run(tmp_path).scores == result.scores
    assert len(calls) == 3
    # What the sweep had no use for is trained again when it is asked for.
    low = TuningPlan({"one": models["one"]}, [polarity()], [0], SETTINGS.model_copy(update={"learning_rate": 1e-7}))
    load_finetuned(low.run(tmp_path).best["one", "polarity"].model)
    assert calls[3:] == [(1e-7, 0)]


@fault(6, "a seed of a fine-tuning that diverges", "recorded, and the others go on")
def test_a_divergence_is_recorded_and_the_plan_goes_on(
    tmp_path: Path, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.finetune

    def second_diverges(source: Any, task: Any, settings: Any, seed: int, *rest: Any) -> Any:
        if seed == 0:
            raise DivergedError("diverged: the loss is nan")
        return real(source, task, settings, seed, *rest)

    monkeypatch.setattr(module, "finetune", second_diverges)
    result = TuningPlan({"one": models["one"]}, [polarity()], [0, 1], FAST).run(tmp_path)
    assert result.failures == ["one on polarity, seed 0: diverged: the loss is nan"]
    assert [record.seed for record in result.records["one", "polarity"]] == [1]


def test_all_is_checked_before_the_first_training(
    tmp_path: Path, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "finetune", None)
    short = save_bert(tmp_path / "short", positions=8)
    with pytest.raises(InputError, match="short takes at most 8 tokens"):
        TuningPlan(models | {"short": short}, [polarity()], [0], FAST).run(tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_a_plan_of_the_configuration() -> None:
    settings = FinetuneSettings(seeds=2, epochs=5, score="best", sweep=Sweep(epochs=[1]))
    plan = TuningPlan.of({}, [], settings)
    assert list(plan.seeds) == [0, 1]
    assert (plan.settings.epochs, plan.score, plan.sweep) == (5, "best", Sweep(epochs=[1]))
    assert torch.is_grad_enabled()
