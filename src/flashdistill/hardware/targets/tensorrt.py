"""NVIDIA TensorRT (10 and later) through its own Python API."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flashdistill.core.errors import TargetError
from flashdistill.hardware.device_timing import ResidentCall
from flashdistill.hardware.settings import Precision, TargetSettings
from flashdistill.hardware.targets.base import ArtifactFormat, Described, Inputs, Target
from flashdistill.hardware.targets.onnx_float16 import write_float16
from flashdistill.hardware.targets.torch import import_torch

_PLAN = "engine.plan"


class TensorRtTarget(Target):
    """An engine for one GPU and one shape, built from ONNX in `prepare`.

    The network is strongly typed, so the types in the file are the types of the engine: TensorRT 11
    knows nothing else, and the flags of TensorRT 10 only permit a precision where this demands it.
    For ``float16`` the file is converted before. TF32 is off: ``float32`` is float32.

    Buffers and streams are torch's, which the engine's work is then ordered with. There is no
    ``int8``: with random weights its calibration would be about nothing.
    """

    artifact: ClassVar[ArtifactFormat] = "onnx"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {"cuda": ("float32", "float16")}

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        try:
            import tensorrt  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise TargetError(
                f"target.runtime is tensorrt, which cannot be imported ({error}); "
                "install it with: pip install 'flashdistill[tensorrt]'"
            ) from error
        self._trt: Any = tensorrt
        self._torch = import_torch(settings)
        self._device = self._torch.device(settings.device)
        self._shape = (settings.batch_size, settings.sequence_length)
        self._remarks: list[str] = []
        self._logger = _logger(tensorrt, self._remarks)
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._resident: ResidentCall | None = None
        self._free_bytes = 0

    def prepare(self, exported: Path, directory: Path) -> Path:
        with (
            self._explained(f"tensorrt cannot build an engine from {exported}"),
            tempfile.TemporaryDirectory(dir=directory) as scratch,
        ):
            builder = self._trt.Builder(self._logger)
            network = builder.create_network(1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            self._parse(network, self._typed(exported, Path(scratch)))
            plan = builder.build_serialized_network(network, self._configuration(builder, network))
            if plan is None:
                raise TargetError("the builder gave up")
        path = directory / _PLAN
        path.write_bytes(plan)
        return path

    def load(self, artifact: Path) -> None:
        self._resident = self.device_call = self._context = self._engine = None
        self._free_bytes = self._torch.cuda.mem_get_info()[0]
        # On the default stream TensorRT would wait for the device in every call.
        self._torch.cuda.set_stream(self._torch.cuda.Stream(self._device))
        with self._explained(f"tensorrt cannot load {artifact}"):
            self._runtime = self._trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(artifact.read_bytes())
            if self._engine is None:
                raise TargetError("this is no engine, or one for another GPU or version")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise TargetError("there is not enough memory on the GPU")
            inputs, outputs = self._buffers()
            self._resident = ResidentCall(lambda _: self._enqueue(outputs), inputs, graph=self.settings.cuda_graphs)
        self.device_call = self._resident.enqueue

    def infer(self, inputs: Inputs) -> Sequence[np.ndarray]:
        assert self._resident is not None, "nothing is loaded"
        return self._resident(inputs)

    def describe(self) -> Described:
        return {
            "runtime": "tensorrt",
            "runtime_version": self._trt.__version__,
            "provider": "cuda",
            "precision": self.settings.precision,
            "threads": self.settings.threads,
            "cpu_bound": False,
            "cuda_graphs": self.settings.cuda_graphs,
            # It keeps what it has reserved, so what is missing now was its peak.
            "device_peak_memory_bytes": max(0, self._free_bytes - self._torch.cuda.mem_get_info()[0]),
        }

    def _typed(self, exported: Path, scratch: Path) -> Path:
        """The model in the precision that is served."""
        if self.settings.precision == "float32":
            return exported
        path = scratch / "float16.onnx"
        write_float16(exported, path, keep_io_types=False)
        return path

    def _parse(self, network: Any, path: Path) -> None:
        parser = self._trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(path)):
            raise TargetError("; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)))

    def _configuration(self, builder: Any, network: Any) -> Any:
        configuration = builder.create_builder_config()
        configuration.clear_flag(self._trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            profile.set_shape(network.get_input(index).name, self._shape, self._shape, self._shape)
        configuration.add_optimization_profile(profile)
        return configuration

    def _buffers(self) -> tuple[dict[str, Any], list[Any]]:
        """Tensors on the device for the engine's inputs, by name, and for its outputs, in order."""
        engine, context = self._engine, self._context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT for name in names}
        for name in names:
            if is_input[name] and not context.set_input_shape(name, self._shape):
                raise TargetError(f"the engine was not built for inputs {list(self._shape)}")
        inputs, outputs = {}, []
        for name in names:  # the outputs' shapes are known now
            shape, dtype = tuple(context.get_tensor_shape(name)), self._dtype(engine.get_tensor_dtype(name))
            buffer = self._torch.zeros(shape, dtype=dtype, device=self._device)
            context.set_tensor_address(name, buffer.data_ptr())
            if is_input[name]:
                inputs[name] = buffer
            else:
                outputs.append(buffer)
        return inputs, outputs

    def _enqueue(self, outputs: list[Any]) -> list[Any]:
        if not self._context.execute_async_v3(self._torch.cuda.current_stream().cuda_stream):
            raise TargetError("tensorrt could not enqueue the model" + self._last_remarks())
        return outputs

    def _dtype(self, dtype: Any) -> Any:
        names = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32"}
        return getattr(self._torch, names[dtype.name])

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Say what failed and what TensorRT, which returns nothing but its failure, has logged about it."""
        self._remarks.clear()
        try:
            yield
        except Exception as error:  # its own, pybind11's and torch's have no common base
            raise TargetError(f"{what}: {error}{self._last_remarks()}") from error

    def _last_remarks(self) -> str:
        return "".join(f"; {remark}" for remark in self._remarks[-3:])


def _logger(trt: Any, remarks: list[str]) -> Any:
    """TensorRT's logger, which collects errors."""

    class Collecting(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants its own constructor called

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                remarks.append(message)

    return Collecting()
