"""ONNX Runtime with real students, and what happens where a provider is missing."""

from __future__ import annotations

import collections
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets import onnxruntime as module
from flashdistill.hardware.targets.base import Target
from flashdistill.hardware.targets.onnx_float16 import write_float16
from flashdistill.hardware.targets.onnxruntime import OnnxRuntimeTarget, TensorRtProviderTarget
from flashdistill.models.lively_student import lively_student
from flashdistill.models.onnx_writer import write_onnx
from flashdistill.testing.target_conformance import VOCAB_SIZE, TargetConformance

FLOAT32 = TargetSettings(runtime="onnxruntime", batch_size=2, sequence_length=12)
INT8 = FLOAT32.model_copy(update={"precision": "int8"})
FAMILY = StudentFamily(num_blocks=2, vocab_size=VOCAB_SIZE, embedding_size=16, max_positions=32)

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def student() -> Any:
    return lively_student(Architecture(64, 32, 2, 48, 2), FAMILY, seed=0)


class StudentConformance(TargetConformance):
    settings = FLOAT32
    student: Any

    @pytest.fixture(autouse=True)
    def keep(self, student: Any) -> None:
        self.student = student

    @pytest.fixture
    def exported(self, tmp_path: Path) -> Path:
        path = tmp_path / "student.onnx"
        write_onnx(self.student, path)
        return path

    def make_target(self, settings: TargetSettings) -> Target:
        return OnnxRuntimeTarget(settings)

    @torch.no_grad()
    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return [self.student.mobilebert(**tensors).last_hidden_state.numpy()]


class TestFloat32(StudentConformance):
    def test_nothing_is_converted(self, exported: Path, artifact: Path) -> None:
        assert artifact == exported


class TestInt8(StudentConformance):
    settings = INT8

    def test_every_dense_layer_is_quantised(self, exported: Path, artifact: Path, tmp_path: Path) -> None:
        """In the graph that runs, after the runtime's own fusions."""
        dense = sum(node.op_type == "Gemm" for node in onnx.load(str(exported)).graph.node)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
        found = collections.Counter(node.op_type for node in nodes)
        assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == dense
        assert found["MatMul"] == 2 * FAMILY.num_blocks  # attention: no weights in it
        assert not found["Gemm"] + found["MatMulInteger"]

    def test_it_is_smaller(self, exported: Path, artifact: Path) -> None:
        assert artifact.stat().st_size < 0.6 * exported.stat().st_size


class BoundOnCpu(OnnxRuntimeTarget):
    """Goes the way of an accelerator, with the CPU as the device."""

    provider = "CPUExecutionProvider"  # type: ignore[assignment]

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        cuda = SimpleNamespace(
            current_device=lambda: 0, synchronize=lambda: None, mem_get_info=lambda: (5_000_000, 9_000_000)
        )
        self._torch = SimpleNamespace(zeros=torch.zeros, int64=torch.int64, float32=torch.float32, cuda=cuda)

    def _providers(self, artifact: Path) -> list[module.Provider]:
        return [(self.provider, {})]


class TestBoundInputsAndOutputs(StudentConformance):
    def make_target(self, settings: TargetSettings) -> Target:
        return BoundOnCpu(settings)

    def test_the_call_is_repeated_in_place(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        assert target.device_call is not None
        before = target.infer(inputs)
        target.device_call()
        np.testing.assert_array_equal(target.infer(inputs)[0], before[0])

    def test_shapes_are_known_to_the_session(self, target: Target, artifact: Path) -> None:
        target.load(artifact)
        assert isinstance(target, OnnxRuntimeTarget)
        assert [port.shape for port in target._session.get_inputs()] == [[2, 12]] * 3


@pytest.mark.parametrize(
    ("machine", "instructions", "reduced"),
    [("x86_64", ["avx2"], True), ("x86_64", ["avx2", "avx512_vnni"], False), ("aarch64", ["asimd"], False)],
)
def test_weights_have_7_bits_where_sums_overflow(
    machine: str, instructions: list[str], reduced: bool, exported_once: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module.platform, "machine", lambda: machine)
    monkeypatch.setattr(module, "instruction_sets", lambda: instructions)
    prepared = OnnxRuntimeTarget(INT8).prepare(exported_once, tmp_path)
    quantised = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(prepared)).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert max(np.abs(weight.astype(int)).max() for weight in quantised) == (64 if reduced else 127)


def test_float16_keeps_the_types_of_inputs_and_outputs(exported_once: Path, tmp_path: Path) -> None:
    """The conversion for CUDA, computed here by the CPU."""
    path = tmp_path / "half.onnx"
    write_float16(exported_once, path, keep_io_types=True)
    graph = onnx.load(str(path)).graph
    types = {port.name: port.type.tensor_type.elem_type for port in [*graph.input, *graph.output]}
    assert set(types.values()) == {onnx.TensorProto.INT64, onnx.TensorProto.FLOAT}
    assert types["last_hidden_state"] == onnx.TensorProto.FLOAT
    weights = [tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 2]
    assert set(weights) == {onnx.TensorProto.FLOAT16}


@pytest.fixture
def exported_once(student: Any, tmp_path: Path) -> Path:
    path = tmp_path / "student.onnx"
    write_onnx(student, path)
    return path


def test_a_model_that_cannot_be_converted(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(TargetError, match=r"cannot convert .*broken.onnx to int8"):
        OnnxRuntimeTarget(INT8).prepare(broken, tmp_path)


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TargetError, match="pip install onnxruntime"):
        OnnxRuntimeTarget(TargetSettings())


class Stream:
    cuda_stream = 4711

    def __init__(self, device: str):
        self.device = device


def fake_torch() -> Any:
    """As much of torch as opening a session on CUDA needs."""
    cuda = SimpleNamespace(Stream=Stream, set_stream=lambda stream: None, current_device=lambda: 1)
    return SimpleNamespace(cuda=cuda, zeros=torch.zeros)


class RecordingSession:
    """Notes how it was made, and says which providers started."""

    started: Sequence[str] = ("CUDAExecutionProvider", "CPUExecutionProvider")
    made: tuple[str, list[Any]]

    def __init__(self, path: str, options: object, providers: list[Any]):
        type(self).made = (path, providers)

    def disable_fallback(self) -> None: ...

    def get_providers(self) -> list[str]:
        return list(self.started)


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> type[RecordingSession]:
    """An onnxruntime-gpu and a torch that find a device."""

    class Session(RecordingSession): ...

    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(module, "import_torch", lambda settings: fake_torch())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return Session


CUDA = FLOAT32.model_copy(update={"device": "cuda:1"})
TENSORRT = CUDA.model_copy(update={"runtime": "onnxruntime-tensorrt", "precision": "float16"})


def test_a_missing_provider_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "import_torch", lambda settings: fake_torch())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for make, settings, provider in [(OnnxRuntimeTarget, CUDA, "CUDA"), (TensorRtProviderTarget, TENSORRT, "Tensorrt")]:
        with pytest.raises(TargetError, match=f"no {provider}ExecutionProvider; .* pip install onnxruntime-gpu"):
            make(settings)


def test_the_session_on_cuda(on_cuda: type[RecordingSession]) -> None:
    OnnxRuntimeTarget(CUDA)._open(Path("model.onnx"))
    path, [(provider, options)] = on_cuda.made
    assert (path, provider) == ("model.onnx", "CUDAExecutionProvider")
    assert options == {"device_id": "1", "user_compute_stream": "4711", "enable_cuda_graph": "1"}


def test_the_cpu_never_takes_over(on_cuda: type[RecordingSession]) -> None:
    on_cuda.started = ("CPUExecutionProvider",)
    with pytest.raises(TargetError, match="CUDAExecutionProvider did not start, .* CPUExecutionProvider instead"):
        OnnxRuntimeTarget(CUDA)._open(Path("model.onnx"))


def test_cuda_never_takes_over_from_tensorrt(on_cuda: type[RecordingSession]) -> None:
    with pytest.raises(TargetError, match="TensorrtExecutionProvider did not start"):
        TensorRtProviderTarget(TENSORRT)._open(Path("engines"))


def test_engines_are_kept_with_the_model(on_cuda: type[RecordingSession], exported_once: Path, tmp_path: Path) -> None:
    on_cuda.started = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    prepared = TensorRtProviderTarget(TENSORRT).prepare(exported_once, tmp_path)
    path, [(provider, options), (second, _)] = on_cuda.made
    assert Path(path).read_bytes() == exported_once.read_bytes()
    assert options["trt_engine_cache_path"] == str(prepared) == str(Path(path).parent)
    assert (options["trt_fp16_enable"], options["trt_engine_cache_enable"]) == ("1", "1")
    assert (provider, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")


@pytest.mark.gpu
@on_gpu
class TestFloat32OnCuda(StudentConformance):
    settings = FLOAT32.model_copy(update={"device": "cuda"})

    def test_the_device_repeats_the_call(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        target.infer(inputs)
        assert target.device_call is not None
        target.device_call()


@pytest.mark.gpu
@on_gpu
class TestFloat16OnCuda(TestFloat32OnCuda):
    settings = FLOAT32.model_copy(update={"device": "cuda", "precision": "float16"})


@pytest.mark.gpu
@on_gpu
class TestKernelByKernel(TestFloat32OnCuda):
    settings = FLOAT32.model_copy(update={"device": "cuda", "cuda_graphs": False})


@pytest.mark.gpu
@on_gpu
class TestTensorRtProvider(TestFloat32OnCuda):
    settings = FLOAT32.model_copy(update={"device": "cuda", "runtime": "onnxruntime-tensorrt", "precision": "float16"})

    def make_target(self, settings: TargetSettings) -> Target:
        return TensorRtProviderTarget(settings)
