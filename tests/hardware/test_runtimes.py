"""Which runtimes are ready: found by making their targets, in a process that may die."""

from __future__ import annotations

import json
import sys
from typing import Any, ClassVar

import pytest

from flashdistill.core.errors import TargetError
from flashdistill.hardware import runtimes
from flashdistill.hardware.runtimes import RuntimeFacts, look_at_runtime, look_at_runtimes
from flashdistill.hardware.settings import TARGETS
from flashdistill.hardware.targets.base import Target
from flashdistill.testing.fake_target import FakeTarget


class Picky(FakeTarget):
    """Serves float32 everywhere and bfloat16 nowhere; its GPU package is missing."""

    precisions: ClassVar[Any] = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16")}

    def __init__(self, settings: Any):
        if settings.device == "cuda":
            raise TargetError("pip install the GPU package")
        if settings.precision == "bfloat16":
            raise TargetError("this CPU has no bfloat16")
        super().__init__(settings)


class GpuOnly(Target):
    precisions: ClassVar[Any] = {"cuda": ("float32",)}


@pytest.fixture(autouse=True)
def _more_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "a_test_of_runtimes", module)
    for name in ("Picky", "GpuOnly"):
        monkeypatch.setitem(TARGETS, name.lower(), f"a_test_of_runtimes:{name}")


def test_every_precision_is_tried() -> None:
    found = look_at_runtime("picky", ("cpu",))
    assert found.available
    assert found.precisions == {"cpu": ["float32"]}
    assert found.lacking == {"cpu bfloat16": "this CPU has no bfloat16"}


def test_one_reason_for_a_whole_device() -> None:
    found = look_at_runtime("picky", ("cpu", "cuda"))
    assert found.lacking == {"cpu bfloat16": "this CPU has no bfloat16", "cuda": "pip install the GPU package"}


def test_a_runtime_for_another_device() -> None:
    found = look_at_runtime("gpuonly", ("cpu",))
    assert not found.available
    assert found.lacking == {"cuda": "this machine has no cuda device"}


def test_in_another_process() -> None:
    found, unknown = look_at_runtimes(["onnxruntime", "picky"])
    assert found.runtime == "onnxruntime"
    assert "float32" in found.precisions["cpu"]
    assert "CPUExecutionProvider" in found.offers
    assert found.version
    assert unknown.runtime == "picky", "which that process does not know"
    assert not unknown.available
    assert "unknown runtime" in unknown.lacking["cpu"]


def test_one_that_crashes_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(names: Any, devices: Any, seconds: float) -> tuple[list[str], str]:
        asked.append(list(names))
        good = [json.dumps({"runtime": name, "precisions": {"cpu": ["float32"]}}) for name in names]
        return (good[: list(names).index("bad")], "died") if "bad" in names else (good, "")

    monkeypatch.setattr(runtimes, "_ask", ask)
    found = look_at_runtimes(["one", "bad", "two", "three"])
    assert [(one.runtime, one.available) for one in found] == [
        ("one", True),
        ("bad", False),
        ("two", True),
        ("three", True),
    ]
    assert found[1] == RuntimeFacts("bad", lacking={"cpu": "died"})
    assert asked == [["one", "bad", "two", "three"], ["two", "three"]]


def test_one_that_hangs_is_given_up() -> None:
    (found,) = look_at_runtimes(["onnxruntime"], seconds=0.01)
    assert found.lacking == {"cpu": "did not answer for 0 s"}


def test_half_a_line_does_not_count() -> None:
    assert runtimes._whole_lines('{"a": 1}\n{"b"') == ['{"a": 1}']
