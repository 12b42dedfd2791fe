"""Repeatable calls and their timing: with a clock of our own here, with a real device where there is one."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
import pytest
import torch

from flashdistill.hardware.device_timing import ResidentCall, time_device_calls


class DeviceClock:
    """A device whose work takes as many microseconds as it is told, in the order of the calls."""

    now_us: ClassVar[float] = 0.0
    waits: ClassVar[int] = 0

    class Event:
        def __init__(self, *, enable_timing: bool):
            assert enable_timing
            self.at_us = -1.0

        def record(self) -> None:
            self.at_us = DeviceClock.now_us

        def elapsed_time(self, end: DeviceClock.Event) -> float:
            assert DeviceClock.waits >= 2, "asked before the device was done"
            return (end.at_us - self.at_us) / 1e3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[DeviceClock]:
    def wait() -> None:
        DeviceClock.waits += 1

    DeviceClock.now_us, DeviceClock.waits = 0.0, 0
    monkeypatch.setattr(torch.cuda, "Event", DeviceClock.Event)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    return DeviceClock


def test_each_call_is_timed_and_the_device_is_waited_for_once(clock: type[DeviceClock]) -> None:
    durations = iter([30.0, 10.0, 12.5])

    def call() -> None:
        clock.now_us += next(durations)

    wall, cpu = time_device_calls(call, 3)
    assert wall == [30_000, 10_000, 12_500]
    assert clock.waits == 2, "before the first call and after the last"
    assert len(cpu) == 3


def test_host_time_is_spread_evenly(clock: type[DeviceClock]) -> None:
    def call() -> None:
        end = time.process_time_ns() + 2_000_000
        while time.process_time_ns() < end:
            pass

    _, cpu = time_device_calls(call, 4)
    assert len(set(cpu)) == 1
    assert 2_000_000 <= cpu[0] < 4_000_000


def test_no_calls(clock: type[DeviceClock]) -> None:
    assert time_device_calls(lambda: None, 0) == ([], [])


def test_inputs_stay_at_their_place() -> None:
    buffers = {name: torch.zeros(2, 3, dtype=torch.int64) for name in "ab"}
    places = [buffer.data_ptr() for buffer in buffers.values()]
    call = ResidentCall(lambda tensors: [(tensors["a"] - tensors["b"]).bfloat16()], buffers, graph=False)
    a, b = np.arange(6).reshape(2, 3), np.asfortranarray(np.full((2, 3), 2))
    (output,) = call({"b": b, "a": a, "unknown": a})
    np.testing.assert_array_equal(output, a - b)
    assert output.dtype == np.float32
    assert [buffer.data_ptr() for buffer in buffers.values()] == places


def test_enqueueing_uses_the_last_inputs() -> None:
    seen: list[int] = []
    buffers = {"a": torch.zeros(1, 1, dtype=torch.int64)}

    def compute(tensors):  # type: ignore[no-untyped-def]
        assert torch.is_inference_mode_enabled()
        seen.append(int(tensors["a"]))
        return [tensors["a"].float()]

    call = ResidentCall(compute, buffers, graph=False)
    call({"a": np.array([[5]])})
    call.enqueue()
    assert seen == [5, 5]


def test_answers_are_copies() -> None:
    place = torch.zeros(1, 1)
    buffers = {"a": torch.zeros(1, 1, dtype=torch.int64)}
    call = ResidentCall(lambda tensors: [place.copy_(tensors["a"])], buffers, graph=False)
    (first,) = call({"a": np.array([[1]])})
    (second,) = call({"a": np.array([[2]])})
    assert (first.item(), second.item()) == (1, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graph", [False, True])
def test_larger_work_takes_longer_on_a_device(graph: bool) -> None:
    medians = []
    for size in (256, 4096):
        matrix = torch.randn(size, size, device="cuda")
        buffers = {"a": torch.ones(1, 1, dtype=torch.int64, device="cuda")}
        call = ResidentCall(lambda tensors, m=matrix: [(m @ m).sum() * tensors["a"]], buffers, graph=graph)
        call({"a": np.array([[2]])})
        medians.append(np.median(time_device_calls(call.enqueue, 20)[0]))
    assert medians[1] > 3 * medians[0] > 0
