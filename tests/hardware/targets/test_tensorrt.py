"""TensorRT: the real one where there is a GPU, and everywhere its Python API's double.

The double has the names and parameters of the API of TensorRT 11 that the target uses. Its engine
reads and writes the addresses that it was given, so buffers, shapes and types have to be right.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.delivery.export import expected_features
from flashdistill.hardware.parity import check_parity, example_inputs
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.base import Target
from flashdistill.hardware.targets.tensorrt import TensorRtTarget
from flashdistill.models.lively_student import lively_student
from flashdistill.models.onnx_writer import write_onnx
from flashdistill.testing.target_conformance import VOCAB_SIZE, TargetConformance

SETTINGS = TargetSettings(runtime="tensorrt", device="cuda", batch_size=2, sequence_length=12)
KERNEL_BY_KERNEL = SETTINGS.model_copy(update={"cuda_graphs": False})
STREAM = 7


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.constructed = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT = np.dtype(np.float32)
    HALF = np.dtype(np.float16)
    INT64 = np.dtype(np.int64)


ONNX_TYPES = {1: DataType.FLOAT, 10: DataType.HALF, 7: DataType.INT64}


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    TF32 = 6


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class Network:
    def __init__(self, strongly_typed: bool):
        self.strongly_typed = strongly_typed
        self.model: onnx.ModelProto | None = None

    @property
    def num_inputs(self) -> int:
        assert self.model is not None
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Any:
        assert self.model is not None
        return types.SimpleNamespace(name=self.model.graph.input[index].name)


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger):
        self._network = network
        self._errors: list[str] = []

    def parse_from_file(self, model: str) -> bool:
        try:
            self._network.model = onnx.load(model)
        except Exception as error:
            self._errors.append(f"In node -1: {type(error).__name__}")
            return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> str:
        return self._errors[index]


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        assert tuple(min) == tuple(opt) == tuple(max)
        self.shapes[input] = tuple(opt)


class BuilderConfig:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.profile: OptimizationProfile | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profile = profile
        return 0


class Builder:
    def __init__(self, logger: ILogger):
        assert logger.constructed
        self._logger = logger

    def create_network(self, flags: int = 0) -> Network:
        return Network(bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> memoryview | None:
        assert network.strongly_typed
        assert not config.flags
        assert network.model is not None
        assert config.profile is not None
        assert len(config.profile.shapes) == network.num_inputs
        if (
            any(node.op_type == "Relu" for node in network.model.graph.node)
            and config.profile.shapes["input_ids"][0] > 2
        ):
            self._logger.log(Severity.WARNING, "this is no reason")
            self._logger.log(Severity.ERROR, "no kernel for Relu")
            return None
        header = json.dumps(config.profile.shapes).encode() + b"\n"
        return memoryview(header + network.model.SerializeToString())


class Runtime:
    def __init__(self, logger: ILogger):
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        if not serialized_engine.startswith(b"{"):
            self._logger.log(Severity.ERROR, "magic tag does not match")
            return None
        return Engine(serialized_engine)


class Engine:
    def __init__(self, plan: bytes):
        header, _, model = plan.partition(b"\n")
        self.shapes = {name: tuple(shape) for name, shape in json.loads(header).items()}
        self.graph = onnx.load_model_from_string(model).graph
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        # Outputs before inputs: the order is the engine's to choose.
        self.values = {value.name: value for value in (*self.graph.output, *self.graph.input)}

    @property
    def num_io_tensors(self) -> int:
        return len(self.values)

    def get_tensor_name(self, index: int) -> str:
        return list(self.values)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.shapes else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return ONNX_TYPES[self.values[name].type.tensor_type.elem_type]

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine):
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._shapes[name] = tuple(shape)
        return tuple(shape) == self._engine.shapes[name]

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        dims = self._engine.values[name].type.tensor_type.shape.dim
        known = self._engine.shapes["input_ids"] if len(self._shapes) == len(self._engine.shapes) else (-1, -1)
        return self._shapes.get(name, (*known, *(dim.dim_value for dim in dims[2:])))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if stream_handle != STREAM:
            return False
        (output,) = self._engine.session.run(None, {name: self._at(name) for name in self._engine.shapes})
        self._at(self._engine.graph.output[0].name)[...] = output
        return True

    def _at(self, name: str) -> np.ndarray:
        shape, dtype = tuple(self.get_tensor_shape(name)), self._engine.get_tensor_dtype(name).value
        buffer = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(self._addresses[name])
        return np.frombuffer(memoryview(buffer), dtype=dtype).reshape(shape)


def double() -> types.ModuleType:
    module: Any = types.ModuleType("tensorrt")
    for part in (ILogger, Builder, OnnxParser, Runtime, NetworkDefinitionCreationFlag, BuilderFlag, TensorIOMode):
        setattr(module, part.__name__, part)
    module.__version__ = "11.4.0"
    return module


class TensorRtOnCpu(TensorRtTarget):
    """Its buffers are in this machine's memory, where the double looks for them."""

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        self._device = torch.device("cpu")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", double())
    stream = types.SimpleNamespace(cuda_stream=STREAM)
    for name, value in {"is_available": True, "device_count": 1, "Stream": stream, "current_stream": stream}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    free_bytes = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (next(free_bytes), 10**9))
    for name in ("set_device", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: None)


def student_of() -> MobileBertForPreTraining:
    family = StudentFamily(num_blocks=2, vocab_size=VOCAB_SIZE, embedding_size=16, max_positions=32)
    return lively_student(Architecture(32, 16, 2, 24, 1), family, seed=0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensorrt") / "encoder.onnx"
    write_onnx(student_of(), path)
    return path


class EngineConformance(TargetConformance):
    settings = SETTINGS

    @pytest.fixture
    def exported(self, encoder: Path) -> Path:
        return encoder

    def make_target(self, settings: TargetSettings) -> Target:
        return TensorRtTarget(settings)

    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        return expected_features(student_of(), dict(inputs)).outputs


@pytest.mark.usefixtures("installed")
class TestAgainstTheDouble(EngineConformance):
    settings = KERNEL_BY_KERNEL

    def make_target(self, settings: TargetSettings) -> Target:
        return TensorRtOnCpu(settings)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestRealEngine(EngineConformance):
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tensorrt")

    def test_the_device_repeats_the_call(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        target.infer(inputs)
        assert target.device_call is not None
        target.device_call()


@pytest.mark.usefixtures("installed")
def test_only_the_engine_is_left(encoder: Path, tmp_path: Path) -> None:
    target = TensorRtOnCpu(KERNEL_BY_KERNEL)
    assert target.prepare(encoder, tmp_path) == tmp_path / "engine.plan"
    assert [file.name for file in tmp_path.iterdir()] == ["engine.plan"]
    target.load(tmp_path / "engine.plan")
    description = target.describe()
    assert (description["cpu_bound"], description["cuda_graphs"]) == (False, False)
    assert description["device_peak_memory_bytes"] == 1000
    assert target.device_call is not None


@pytest.mark.usefixtures("installed")
def test_float16_is_written_into_the_network(encoder: Path, tmp_path: Path) -> None:
    settings = KERNEL_BY_KERNEL.model_copy(update={"precision": "float16"})
    target, inputs = TensorRtOnCpu(settings), example_inputs(settings, VOCAB_SIZE, seed=0)
    plan = target.prepare(encoder, tmp_path)
    assert plan.stat().st_size < 0.8 * encoder.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["engine.plan"]
    target.load(plan)
    (got,), (exact,) = target.infer(inputs), expected_features(student_of(), inputs).outputs
    assert got.dtype == np.float32
    assert 1e-5 < np.abs(got - exact).max() / np.abs(exact).max() < 0.02


@pytest.mark.usefixtures("installed")
def test_failures_come_with_the_log(encoder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(TargetError, match=r"cannot build an engine from .*broken.onnx: In node -1: DecodeError"):
        TensorRtOnCpu(KERNEL_BY_KERNEL).prepare(broken, tmp_path)
    large = TensorRtOnCpu(KERNEL_BY_KERNEL.model_copy(update={"batch_size": 3}))
    with pytest.raises(TargetError, match=r"encoder.onnx: the builder gave up; no kernel for Relu$"):
        large.prepare(encoder, tmp_path)
    with pytest.raises(TargetError, match=r"cannot load .*broken.onnx: this is no engine.*; magic tag does not match"):
        large.load(broken)


@pytest.mark.usefixtures("installed")
def test_an_engine_serves_one_shape(encoder: Path, tmp_path: Path) -> None:
    plan = TensorRtOnCpu(KERNEL_BY_KERNEL).prepare(encoder, tmp_path)
    longer = TensorRtOnCpu(KERNEL_BY_KERNEL.model_copy(update={"sequence_length": 16}))
    with pytest.raises(TargetError, match=r"the engine was not built for inputs \[2, 16\]"):
        longer.load(plan)


@pytest.mark.usefixtures("installed")
def test_a_call_that_cannot_be_enqueued(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, inputs = TensorRtOnCpu(KERNEL_BY_KERNEL), example_inputs(SETTINGS, VOCAB_SIZE, seed=0)
    target.load(target.prepare(encoder, tmp_path))
    check_parity("the student", target.infer(inputs), expected_features(student_of(), inputs).outputs)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(cuda_stream=0))
    with pytest.raises(TargetError, match="could not enqueue"):
        target.infer(inputs)


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TargetError, match=r"pip install 'flashdistill\[tensorrt\]'"):
        TensorRtTarget(SETTINGS)


def test_a_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", double())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TargetError, match=r"target\.device is cuda, but torch .* finds 0 CUDA devices"):
        TensorRtTarget(SETTINGS)
