from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from torch import nn

from flashdistill.core.errors import InputError
from flashdistill.training.optimizers import LinearSchedule, PlateauSchedule, build_optimizer, require_optimizer


def test_schedule_warms_up_and_decays_linearly() -> None:
    schedule = LinearSchedule(steps=10, peak=1.0, warmup_steps=3, final_fraction=0.1)
    rates = [schedule(step) for step in range(10)]
    assert rates[:3] == [0.25, 0.5, 0.75]
    assert rates[3] == 1.0
    assert np.diff(rates[3:]) == pytest.approx([-0.9 / 7] * 6)
    assert min(rates) > 0


def test_plateau_schedule_is_that_of_mobilebert() -> None:
    schedule = PlateauSchedule(steps=20, peak=2.0)
    fractions = (np.arange(20) + 1) / 20
    expected = 2.0 * np.minimum(0.9 + 0.1 * np.sqrt(1 - fractions), 10 * fractions)
    assert [schedule(step) for step in range(20)] == pytest.approx(list(expected))
    assert schedule(0) == pytest.approx(1.0)
    assert schedule(19) == pytest.approx(1.8)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_slowed_weights_take_a_fraction_of_the_step(name: str) -> None:
    if name == "lamb":
        pytest.importorskip("pytorch_optimizer")
    fast, slow = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer(name, [fast], 0.01, 0.0, [slow], 0.1)  # type: ignore[arg-type]
    fast.grad, slow.grad = torch.ones(2, 2), torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close((1 - slow) / (1 - fast), torch.full((2, 2), 0.1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_vectors_are_not_decayed(name: str) -> None:
    if name == "lamb":
        pytest.importorskip("pytorch_optimizer")
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(name, layer.parameters(), 1e-3, 0.01)  # type: ignore[arg-type]
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(layer.weight): 0.01, id(layer.bias): 0.0}


def test_lamb_follows_its_paper() -> None:
    """Two steps by hand: m, v without bias correction, decay inside the update, trust ratio on matrices only."""
    pytest.importorskip("pytorch_optimizer")
    layer = nn.Linear(3, 2)
    rate, decay = 0.01, 0.1
    weight, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    optimizer = build_optimizer("lamb", layer.parameters(), rate, decay)
    moments = {"weight": [0.0, 0.0], "bias": [0.0, 0.0]}
    for step in range(2):
        gradients = {
            "weight": np.full((2, 3), 0.1 * (step + 1), dtype=np.float32),
            "bias": np.array([0.2, -0.3], dtype=np.float32),
        }
        layer.weight.grad, layer.bias.grad = torch.tensor(gradients["weight"]), torch.tensor(gradients["bias"])
        optimizer.step()
        updates = {}
        for key, gradient in gradients.items():
            first, second = moments[key]
            moments[key] = [0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2]
            updates[key] = moments[key][0] / (np.sqrt(moments[key][1]) + 1e-6)
        update = updates["weight"] + decay * weight
        weight = weight - rate * update * np.linalg.norm(weight) / (np.linalg.norm(update) + 1e-6)
        bias = bias - rate * updates["bias"]
    assert layer.weight.detach().numpy() == pytest.approx(weight, rel=1e-5)
    assert layer.bias.detach().numpy() == pytest.approx(bias, rel=1e-5)


def test_missing_lamb_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pytorch_optimizer"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"flashdistill\[lamb\]"):
        require_optimizer("lamb")
    require_optimizer("adamw")
