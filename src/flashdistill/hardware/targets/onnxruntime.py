"""ONNX Runtime: on the CPU, on CUDA, and on CUDA through TensorRT.

Shapes: B sequences, S tokens.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flashdistill.core.errors import TargetError
from flashdistill.hardware.artifacts import copy_artifact
from flashdistill.hardware.device_timing import ResidentCall
from flashdistill.hardware.machine import instruction_sets
from flashdistill.hardware.settings import Precision, TargetSettings
from flashdistill.hardware.targets.base import Described, Inputs, Target
from flashdistill.hardware.targets.onnx_float16 import write_float16
from flashdistill.hardware.targets.torch import import_torch

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_ERRORS_ONLY = 3
_PREPARED = "model.onnx"
_CALLS_BEFORE_CAPTURE = 3
"""The first calls reserve memory and choose kernels; then the runtime records its CUDA graph."""

Provider = tuple[str, dict[str, str]]


class OnnxRuntimeTarget(Target):
    """One session with all graph optimisations and a fixed number of threads.

    ``int8`` is the runtime's dynamic quantisation of dense layers. ``float16`` is another ONNX
    file, whose inputs and outputs keep their types.
    """

    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {
        "cpu": ("float32", "int8"),
        "cuda": ("float32", "float16"),
    }

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        on_cuda = settings.device_type == "cuda"
        # Before the runtime: it brings the CUDA libraries that both of them use.
        self._torch = import_torch(settings) if on_cuda else None
        try:
            import onnxruntime
        except ImportError as error:
            package = "onnxruntime-gpu" if on_cuda else "onnxruntime"
            raise TargetError(
                f"target.runtime is {settings.runtime}, but onnxruntime cannot be imported ({error}); "
                f"install it with: pip install {package}"
            ) from error
        self._runtime = onnxruntime
        self._session: Any = None
        self._resident: ResidentCall | None = None
        self._free_bytes = 0
        self._refuse_missing_provider()

    @property
    def provider(self) -> str:
        """The execution provider that must do the work."""
        return _CPU if self._torch is None else _CUDA

    @classmethod
    def prepares(cls, settings: TargetSettings) -> bool:
        return settings.precision != "float32" or cls.prepare is not OnnxRuntimeTarget.prepare

    def prepare(self, exported: Path, directory: Path) -> Path:
        convert = {"int8": _quantise, "float16": partial(write_float16, keep_io_types=True)}.get(
            self.settings.precision
        )
        if convert is None:
            return exported
        prepared = directory / _PREPARED
        try:
            convert(exported, prepared)
        except Exception as error:  # the tools' exceptions share no base
            raise TargetError(f"onnxruntime cannot convert {exported} to {self.settings.precision}: {error}") from error
        return prepared

    def load(self, artifact: Path) -> None:
        self._session = self._resident = self.device_call = None
        if self._torch is not None:
            self._free_bytes = self._torch.cuda.mem_get_info()[0]
        self._session = self._open(artifact)
        if self._torch is not None:
            self._resident = self._on_device(self._session)
            self.device_call = self._resident.enqueue

    def infer(self, inputs: Inputs) -> Sequence[np.ndarray]:
        if self._resident is not None:
            return self._resident(inputs)
        return self._session.run(None, inputs)

    def describe(self) -> Described:
        described: Described = {
            "runtime": self.settings.runtime,
            "runtime_version": self._runtime.__version__,
            "provider": self.provider,
            "precision": self.settings.precision,
            "threads": self.settings.threads,
            "cpu_bound": self.settings.device_type == "cpu",
        }
        if self._torch is not None:
            described["cuda_graphs"] = self.settings.cuda_graphs
            # The runtime keeps what it has reserved, so what is missing now was its peak.
            described["device_peak_memory_bytes"] = max(0, self._free_bytes - self._torch.cuda.mem_get_info()[0])
        return described

    def _providers(self, artifact: Path) -> list[Provider]:
        """What may run nodes, the preferred first."""
        del artifact
        if self._torch is None:
            return [(_CPU, {})]
        return [(_CUDA, {**self._device_options(), "enable_cuda_graph": _flag(self.settings.cuda_graphs)})]

    def _device_options(self) -> dict[str, str]:
        torch = self._torch
        assert torch is not None
        # A stream of our own becomes torch's current one, on which copies and timing events go. The
        # default stream will not do: its handle is zero, which the runtime takes for none.
        stream = torch.cuda.Stream(self.settings.device)
        torch.cuda.set_stream(stream)
        return {"device_id": str(torch.cuda.current_device()), "user_compute_stream": str(stream.cuda_stream)}

    def _refuse_missing_provider(self) -> None:
        if self.provider not in self._runtime.get_available_providers():
            raise TargetError(
                f"target.runtime is {self.settings.runtime} on {self.settings.device}, but the installed "
                f"onnxruntime {self._runtime.__version__} has no {self.provider}; "
                "replace it: pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            )

    def _open(self, artifact: Path) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.settings.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._runtime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        # Worker threads spin inside a run, as in serving, and sleep between runs: an idle
        # reference model must not take the CPU from the candidate.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._torch is not None:
            # With a known shape no node is left that computes shapes on the CPU; CUDA graphs and
            # engines need that. On the CPU it makes no difference.
            options.add_free_dimension_override_by_name("batch", self.settings.batch_size)
            options.add_free_dimension_override_by_name("sequence", self.settings.sequence_length)
        try:
            session = self._runtime.InferenceSession(str(artifact), options, providers=self._providers(artifact))
        except Exception as error:  # its exception classes share no public base
            raise TargetError(f"{self.settings.runtime} cannot load {artifact}: {error}") from error
        session.disable_fallback()
        found = session.get_providers()
        if found[0] != self.provider:
            raise TargetError(
                f"{self.provider} did not start, onnxruntime would use {found[0]} instead; "
                "the libraries it needs (CUDA, cuDNN, TensorRT) are missing or of another version"
            )
        return session

    def _on_device(self, session: Any) -> ResidentCall:
        """The call with inputs and outputs that stay on the device."""
        torch, binding = self._torch, session.io_binding()
        assert torch is not None
        index = torch.cuda.current_device()
        known = {"batch": self.settings.batch_size, "sequence": self.settings.sequence_length}

        def bound(bind: Callable[..., None], port: Any, dtype: str) -> Any:
            shape = [known.get(size, size) for size in port.shape]
            tensor = torch.zeros(shape, dtype=getattr(torch, dtype), device=self.settings.device)
            bind(port.name, self.settings.device_type, index, np.dtype(dtype).type, shape, tensor.data_ptr())
            return tensor

        inputs = {port.name: bound(binding.bind_input, port, "int64") for port in session.get_inputs()}
        outputs = [bound(binding.bind_output, port, "float32") for port in session.get_outputs()]
        without_waiting = self._runtime.RunOptions()
        without_waiting.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def compute(_: Mapping[str, Any]) -> list[Any]:
            session.run_with_iobinding(binding, without_waiting)
            return outputs

        # The runtime records its own graph, where one is asked for.
        call = ResidentCall(compute, inputs, graph=False)
        torch.cuda.synchronize()
        for _ in range(_CALLS_BEFORE_CAPTURE):
            call.enqueue()
        torch.cuda.synchronize()
        return call


class TensorRtProviderTarget(OnnxRuntimeTarget):
    """Subgraphs as TensorRT engines, which are built in `prepare` and kept beside the model.

    No ``int8``: its scales would have to be calibrated on data that say something about serving.
    """

    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {"cuda": ("float32", "float16")}

    @property
    def provider(self) -> str:
        return _TENSORRT

    def prepare(self, exported: Path, directory: Path) -> Path:
        """Build the engines; a directory with them and the model."""
        place = directory / "tensorrt"
        copied = copy_artifact(exported, place)
        copied.rename(place / _PREPARED)
        self._open(place)
        return place

    def _open(self, artifact: Path) -> Any:
        return super()._open(artifact / _PREPARED)

    def _providers(self, artifact: Path) -> list[Provider]:
        device = self._device_options()
        engines = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(artifact.parent),
            "trt_fp16_enable": _flag(self.settings.precision == "float16"),
            "trt_cuda_graph_enable": _flag(self.settings.cuda_graphs),
        }
        return [(_TENSORRT, device | engines), (_CUDA, device)]


def _flag(on: bool) -> str:
    return "1" if on else "0"


def _quantise(exported: Path, prepared: Path) -> None:
    """Dense layers with 8-bit weights, whose inputs are quantised as they come.

    Signed weights with one scale per column were the fastest and the most exact of the tool's
    variants. The embedding table stays in float32: looking rows up takes no time, one scale for the
    whole table adds a fifth to the error of all that follows.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        onnx.load(str(exported)),  # a model rather than a path: for a path the tool writes files beside it
        str(prepared),
        op_types_to_quantize=["MatMul"],  # a Gemm is split into one and an Add, which the runtime fuses again
        per_channel=True,
        reduce_range=_sums_saturate(),
        weight_type=QuantType.QInt8,
    )


def _sums_saturate() -> bool:
    """Whether this CPU adds two 8-bit products in 16 bits, where they overflow unless weights have 7 bits."""
    with_wide_sums = {"avx512_vnni", "avx_vnni", "amx_int8"}
    return platform.machine().lower() in ("x86_64", "amd64") and not with_wide_sums.intersection(instruction_sets())
