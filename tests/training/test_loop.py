"""The loop on a model small enough to know its answers: resuming, shares of a batch, interrupts."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from flashdistill.core.errors import DivergedError, InputError
from flashdistill.core.progress import Silent
from flashdistill.training.checkpoint import CheckpointStore, Snapshot
from flashdistill.training.compute import WHOLE, Compute, Share
from flashdistill.training.loop import LossCurve, Phase, StepLoss, run_phase
from flashdistill.training.optimizers import LinearSchedule, build_optimizer
from tests.faults_catalogue import fault

STEPS, BATCH = 10, 6


class Regression(StepLoss):
    """Mean squared error over rows of which some do not count, as padding does not."""

    batch_size = BATCH

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        random = torch.Generator().manual_seed(1)
        self.data = torch.randn(STEPS, BATCH, 4, generator=random)
        self.counts = torch.randint(0, 2, (STEPS, BATCH), generator=random).float()
        self.counts[:, 0] = 1

    def rows(self, share: Share) -> slice:
        return slice(BATCH * share.index // share.count, BATCH * (share.index + 1) // share.count)

    def sizes(self, step: int, share: Share) -> tuple[float]:
        return (float(self.counts[step, self.rows(share)].sum()),)

    def forward(self, step: int, share: Share = WHOLE, totals: Sequence[float] = ()) -> torch.Tensor:
        rows = self.rows(share)
        per_row = self.layer(self.data[step, rows]).square().mean(-1)
        return (per_row * self.counts[step, rows]).sum() / totals[0]


def phase(name: str = "adamw") -> Phase:
    loss = Regression()
    parameters = list(loss.layer.parameters())
    optimizer = build_optimizer(name, parameters, 0.1, 0.01)  # type: ignore[arg-type]
    return Phase("phase", loss, parameters, optimizer, LinearSchedule(STEPS, 0.1, 2), gradient_clip=0.5)


def train(
    one: Phase, compute: Compute | None = None, store: CheckpointStore | None = None, resume: Snapshot | None = None
) -> tuple[LossCurve, torch.Tensor]:
    layer: nn.Linear = one.loss.layer  # type: ignore[assignment]
    curve = run_phase(one, {"layer": layer}, compute or Compute(), store, resume)
    return curve, layer.weight.detach().clone()


class StopAt(Silent):
    """Sends this process a signal during the n-th step."""

    def __init__(self, step: int, number: signal.Signals):
        self.step, self.number, self.done = step, number, 0

    def advance(self, task: str, steps: int = 1, note: str = "") -> None:
        self.done += 1
        if self.done == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_writes_a_checkpoint_from_which_training_continues_exactly(
    tmp_path: Path, name: str, number: signal.Signals
) -> None:
    expected_curve, expected = train(phase(name))
    store = CheckpointStore(tmp_path, every_seconds=1e9)
    stopped = phase(name)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run_phase(stopped, {"layer": stopped.loss.layer}, Compute(), store, None, StopAt(4, number))  # type: ignore[dict-item]
    assert signal.getsignal(number) == before
    saved = store.load_latest()
    assert saved is not None
    assert saved.position["step"] == 5  # the signal came during a step, which was done to its end
    curve, resumed = train(phase(name), None, store, saved)
    assert torch.equal(resumed, expected)
    assert curve.points == expected_curve.points


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(micro: int) -> None:
    expected_curve, expected = train(phase())
    curve, weight = train(phase(), Compute(micro_batch_size=micro))
    torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
    assert [loss for _, loss in curve.points] == pytest.approx([loss for _, loss in expected_curve.points], rel=1e-5)


@pytest.mark.parametrize(("world", "micro", "batch"), [(1, None, 6), (1, 4, 6), (2, 2, 7), (3, 1, 10), (4, 2, 4)])
def test_shares_are_equally_many_and_cover_the_batch(world: int, micro: int | None, batch: int) -> None:
    shares = [
        share for r in range(world) for share in Compute(micro_batch_size=micro, rank=r, world_size=world).shares(batch)
    ]
    count = len(shares)
    assert shares == [Share(index, count) for index in range(count)]
    sizes = [batch * (s.index + 1) // count - batch * s.index // count for s in shares]
    assert sum(sizes) == batch
    assert min(sizes) >= 1
    if micro is not None:
        assert max(sizes) <= micro + (world > 1)  # processes with a sequence more than others stay in step


def test_more_processes_than_sequences_is_the_users_mistake() -> None:
    with pytest.raises(InputError, match="raise batch_size"):
        Compute(world_size=4).shares(3)


@fault(6, "loss of NaN in a training step", "stopped before the update, with phase and step")
def test_divergence_stops_before_the_update_and_names_the_place() -> None:
    one = phase()
    loss: Regression = one.loss  # type: ignore[assignment]
    loss.data[3] = float("inf")
    with pytest.raises(DivergedError, match=r"the loss is nan at step 3 of phase; last good loss \d"):
        train(one)
    assert torch.isfinite(loss.layer.weight).all()


@fault(6, "infinite gradient in a training step", "stopped before the update")
def test_a_gradient_that_is_not_finite_stops_as_well() -> None:
    one = phase()
    one.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(DivergedError, match="the gradient norm is nan at step 0"):
        train(one)
    assert torch.isfinite(one.parameters[0]).all()


def test_reduced_precision_is_used_where_it_is_asked_for() -> None:
    _, exact = train(phase())
    _, rough = train(phase(), Compute(precision=torch.bfloat16))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.2, atol=0.05)
