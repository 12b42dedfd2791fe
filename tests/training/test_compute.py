"""Where training runs and in what precision, as far as one process on a CPU can tell."""

from __future__ import annotations

import pytest
import torch

from flashdistill.core.errors import InputError, NothingFeasibleError
from flashdistill.training import compute as module
from flashdistill.training.compute import Compute, dismissing_others, has_bfloat16, open_compute
from flashdistill.training.settings import TrainingSettings
from flashdistill.training.speed import bfloat16_speedup


def settings(**values: object) -> TrainingSettings:
    return TrainingSettings.model_validate(values)


def test_the_default_is_one_process_in_single_precision() -> None:
    compute = open_compute(settings(device="cpu", micro_batch_size=3))
    assert compute == Compute(torch.device("cpu"), torch.float32, False, 3, 0, 1)
    assert compute.is_main
    assert compute.sum([1.0, 2.0]) == [1.0, 2.0]
    assert compute.from_main("x") == "x"
    with compute.main_first():
        compute.wait()
    compute.close()


def test_a_device_that_is_not_there_is_the_users_mistake() -> None:
    with pytest.raises(InputError, match=r"training.device: got cuda:97, but PyTorch finds no such device"):
        open_compute(settings(device="cuda:97"))


def test_bfloat16_without_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    with pytest.raises(InputError, match="many times slower than with float32"):
        open_compute(settings(device="cpu", precision="bfloat16"))
    assert open_compute(settings(device="cpu")).precision == torch.float32


def test_bfloat16_with_instructions_is_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda device: True)
    assert open_compute(settings(device="cpu", precision="bfloat16")).precision == torch.bfloat16
    assert open_compute(settings(device="cpu")).precision == torch.float32


def test_arithmetic_is_what_products_are_computed_in() -> None:
    a = torch.ones(2, 2)
    with Compute(precision=torch.bfloat16).arithmetic():
        assert (a @ a).dtype == torch.bfloat16
    with Compute().arithmetic():
        assert (a @ a).dtype == torch.float32


def test_speedup_is_measured_only_where_there_are_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    measured = bfloat16_speedup(cpu)
    assert (measured is not None) == has_bfloat16(cpu)
    assert measured is None or 0.1 < measured < 100


class _Recording(Compute):
    """Remembers what the other processes were told."""

    def from_main(self, value: object = None) -> object:
        self.told.append(value)  # type: ignore[attr-defined]
        return value


@pytest.mark.parametrize(
    ("error", "told"), [(None, [None]), (NothingFeasibleError("x"), [None]), (KeyboardInterrupt(), [])]
)
def test_the_others_are_dismissed_unless_they_know(error: BaseException | None, told: list[None]) -> None:
    compute = _Recording()
    object.__setattr__(compute, "told", [])

    def work() -> None:
        with dismissing_others(compute):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert compute.told == told  # type: ignore[attr-defined]
