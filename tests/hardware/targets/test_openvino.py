"""OpenVINO in every precision that this CPU has, with real students."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets import openvino as module
from flashdistill.hardware.targets.base import Target
from flashdistill.hardware.targets.openvino import OpenVinoTarget
from flashdistill.models.lively_student import lively_student
from flashdistill.models.onnx_writer import write_onnx
from flashdistill.testing.target_conformance import VOCAB_SIZE, TargetConformance

FLOAT32 = TargetSettings(runtime="openvino", batch_size=2, sequence_length=12)
INT8 = FLOAT32.model_copy(update={"precision": "int8"})
BFLOAT16 = FLOAT32.model_copy(update={"precision": "bfloat16"})
FLOAT16 = FLOAT32.model_copy(update={"precision": "float16"})
FAMILY = StudentFamily(num_blocks=2, vocab_size=VOCAB_SIZE, embedding_size=16, max_positions=32)

CAPABILITIES = OpenVinoTarget(FLOAT32)._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def student() -> Any:
    return lively_student(Architecture(64, 32, 2, 48, 2), FAMILY, seed=0)


@pytest.fixture(scope="module")
def onnx_file(student: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "student.onnx"
    write_onnx(student, path)
    return path


class TestFloat32(TargetConformance):
    settings = FLOAT32
    student: Any

    @pytest.fixture(autouse=True)
    def keep(self, student: Any) -> None:
        self.student = student

    @pytest.fixture
    def exported(self, onnx_file: Path) -> Path:
        return onnx_file

    def make_target(self, settings: TargetSettings) -> Target:
        return OpenVinoTarget(settings)

    @torch.no_grad()
    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return [self.student.mobilebert(**tensors).last_hidden_state.numpy()]


class TestInt8(TestFloat32):
    settings = INT8

    def test_all_weights_are_compressed(self, exported: Path, target: Target) -> None:
        dense = sum(node.op_type == "Gemm" for node in onnx.load(str(exported)).graph.node)
        assert isinstance(target, OpenVinoTarget)
        model = module._compressed(target._core.read_model(str(exported)))
        constants = [node.output(0) for node in model.get_ops() if node.get_type_name() == "Constant"]
        bytes_of = [constant.get_element_type().to_string() for constant in constants if len(constant.get_shape()) == 2]
        assert bytes_of.count("u8") >= dense + 2  # and the embeddings of words and segments

    def test_activations_are_quantised(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        (quantised,) = target.infer(inputs)
        assert target.describe()["activation_group_size"] == 32
        (artifact / "options.json").write_text('{"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}')
        target.load(artifact)
        (weights_only,) = target.infer(inputs)
        assert not np.array_equal(quantised, weights_only)


@pytest.mark.skipif("BF16" not in CAPABILITIES, reason="this CPU has no bfloat16 instructions")
class TestBfloat16(TestFloat32):
    settings = BFLOAT16


@pytest.mark.skipif("FP16" not in CAPABILITIES, reason="this CPU has no float16 instructions")
class TestFloat16(TestFloat32):
    settings = FLOAT16


@pytest.mark.parametrize(
    ("settings", "able", "advice"),
    [
        (BFLOAT16, ["FP32", "INT8"], "choose float32 or int8"),
        (FLOAT16, ["FP32", "BF16"], "choose float32, bfloat16 or int8"),
    ],
)
def test_a_precision_that_would_be_replaced(
    settings: TargetSettings, able: list[str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return able

    monkeypatch.setattr(openvino, "Core", Core)
    with pytest.raises(TargetError, match=f"target.precision is {settings.precision}, .* no instructions; {advice}"):
        OpenVinoTarget(settings)


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        (Architecture(256, 128, 2, 512, 1), 128),
        (Architecture(256, 96, 2, 384, 1), 96),
        (Architecture(246, 104, 2, 384, 1), 96),  # a multiple of 16
        (Architecture(64, 16, 2, 64, 1), 64),  # layers with 16 inputs stay as they are
    ],
)
def test_groups_fit_the_narrowest_layer(architecture: Architecture, size: int, tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    family = StudentFamily(num_blocks=1, vocab_size=20, embedding_size=48, max_positions=16)
    write_onnx(lively_student(architecture, family, seed=0), path)
    assert module._group_size(OpenVinoTarget(INT8)._core.read_model(str(path))) == size


def test_an_export_that_is_no_model(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(TargetError, match=r"openvino cannot read .*broken.onnx"):
        OpenVinoTarget(FLOAT32).prepare(broken, tmp_path)


@pytest.mark.parametrize(("package", "settings"), [("openvino", FLOAT32), ("nncf", INT8)])
def test_a_missing_package_says_what_to_install(
    package: str, settings: TargetSettings, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TargetError, match=r"pip install 'flashdistill\[openvino\]'"):
        OpenVinoTarget(settings).prepare(onnx_file, tmp_path)


IN_A_RUNNER = """
import json, sys
from pathlib import Path
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.openvino import OpenVinoTarget
target = OpenVinoTarget(TargetSettings.model_validate_json(sys.argv[1]))
target.load(target.prepare(Path(sys.argv[2]), Path(sys.argv[3])))
import nncf.telemetry
print(type(nncf.telemetry.telemetry).__name__, "openvino_telemetry" in sys.modules)
"""


def test_no_telemetry_and_nothing_in_the_home_directory(onnx_file: Path, tmp_path: Path) -> None:
    """In a process of its own: NNCF keeps its telemetry quiet under pytest anyway."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", IN_A_RUNNER, INT8.model_dump_json(), str(onnx_file), str(work)],
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")} | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    last = done.stdout.splitlines()[-1]
    assert last.endswith(" False")
    assert not last.startswith("NNCFTelemetry ")  # what it is replaced by has had several names
    assert not [path for path in home.rglob("*") if path.is_file()]
