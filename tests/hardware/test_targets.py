"""Every target against the conformance tests."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flashdistill.core.errors import TargetError
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.base import Target
from flashdistill.hardware.targets.onnxruntime import OnnxRuntimeTarget
from flashdistill.testing.fake_target import FakeTarget, fake_outputs, write_fake_artifact
from flashdistill.testing.target_conformance import VOCAB_SIZE, TargetConformance


class TestFakeTarget(TargetConformance):
    @pytest.fixture
    def artifact(self, tmp_path: Path) -> Path:
        return write_fake_artifact(tmp_path / "model.json", latency_us=1)

    def make_target(self, settings: TargetSettings) -> Target:
        return FakeTarget(settings)

    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        return fake_outputs(inputs)


class TestOnnxRuntimeTarget(TargetConformance):
    """The model: an embedding table of width 3, looked up, masked and moved by the segment."""

    settings = TargetSettings(runtime="onnxruntime", batch_size=2, sequence_length=12)
    table = np.random.default_rng(0).normal(size=(VOCAB_SIZE, 3)).astype(np.float32)

    @pytest.fixture
    def artifact(self, tmp_path: Path) -> Path:
        names = ("input_ids", "attention_mask", "token_type_ids")
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]),
            helper.make_node("Add", ["attention_mask", "token_type_ids"], ["sum"]),
            helper.make_node("Mul", ["sum", "attention_mask"], ["integer_factor"]),
            helper.make_node("Cast", ["integer_factor"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["factor", "last"], ["column"]),
            helper.make_node("Mul", ["looked_up", "column"], ["output"]),
        ]
        graph = helper.make_graph(
            nodes,
            "lookup",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", "sequence", 3])],
            [numpy_helper.from_array(self.table, "table"), numpy_helper.from_array(np.array([-1]), "last")],
        )
        path = tmp_path / "model.onnx"
        opset = [helper.make_opsetid("", 17)]
        path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
        onnx.checker.check_model(str(path))
        return path

    def make_target(self, settings: TargetSettings) -> Target:
        return OnnxRuntimeTarget(settings)

    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        factor = (inputs["attention_mask"] + inputs["token_type_ids"]) * inputs["attention_mask"]
        return [self.table[inputs["input_ids"]] * factor[..., None]]


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TargetError, match="pip install onnxruntime"):
        OnnxRuntimeTarget(TargetSettings())
