"""PyTorch as a serving runtime: eager, and compiled ahead of time.

Both start from what a user of `transformers` has, a model directory, and read it with the attention
implementation that `transformers` chooses (scaled dot-product attention where the model has it).
Neither serves ``int8``: torch's own dynamic quantisation is deprecated, and its successor is
another package.
"""

from __future__ import annotations

import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flashdistill.core.environment import environment_variable
from flashdistill.core.errors import TargetError, first_line
from flashdistill.core.registry import load
from flashdistill.hardware.device_timing import ResidentCall
from flashdistill.hardware.settings import Precision, TargetSettings
from flashdistill.hardware.targets.base import ArtifactFormat, Described, Inputs, Target

_MODELS = {"encoder": "flashdistill.models.delivered:load_encoder"}
"""By name, since this layer must not depend on the layer that knows what is in a model directory."""

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PACKAGE = "model.pt2"

Tensors = tuple[Any, ...]
Compute = Callable[..., Any]
"""From the tensors of `_INPUTS`, [B, S], to the last feature map, [B, S, h]."""


class _TorchRuntime(Target):
    """What eager and compiled models have in common."""

    artifact: ClassVar[ArtifactFormat] = "checkpoint"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {
        "cpu": ("float32", "bfloat16"),
        "cuda": ("float32", "bfloat16", "float16"),
    }
    engine: ClassVar[str]

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        self._torch = import_torch(settings)
        self._torch.set_num_threads(settings.threads)
        with suppress(RuntimeError):  # torch lets a process choose this once, before the first parallel work
            self._torch.set_num_interop_threads(1)
        _check_bfloat16(self._torch, settings)
        self._dtype = getattr(self._torch, settings.precision)
        self._device = self._torch.device(settings.device)
        self._compute: Compute | None = None
        self._resident: ResidentCall | None = None

    @abstractmethod
    def _open(self, artifact: Path) -> Compute:
        """The model, on the device."""

    def load(self, artifact: Path) -> None:
        self._compute = self._resident = self.device_call = None
        compute = self._open(artifact)
        if self._device.type == "cuda":
            inputs: dict[str, Any] = dict(zip(_INPUTS, self._example(), strict=True))
            self._resident = ResidentCall(
                lambda tensors: [compute(*tensors.values())], inputs, graph=self.settings.cuda_graphs
            )
            self.device_call = self._resident.enqueue
        self._compute = compute

    def infer(self, inputs: Inputs) -> Sequence[np.ndarray]:
        if self._resident is not None:
            return self._resident(inputs)
        assert self._compute is not None, "nothing is loaded"
        with self._torch.inference_mode():
            output = self._compute(*(self._torch.from_numpy(inputs[name]) for name in _INPUTS))
            return [output.float().numpy()]

    def describe(self) -> Described:
        on_cuda = self._device.type == "cuda"
        described: Described = {
            "runtime": self.settings.runtime,
            "runtime_version": self._torch.__version__,
            "provider": f"{self._device.type} {self.engine}",
            "precision": self.settings.precision,
            "threads": self.settings.threads,
            "cpu_bound": not on_cuda,
        }
        if on_cuda:
            described["cuda_graphs"] = self.settings.cuda_graphs
            described["device_peak_memory_bytes"] = self._torch.cuda.max_memory_allocated(self._device)
        return described

    def _encoder(self, directory: Path) -> Any:
        return load(_MODELS, "encoder", "model")(directory, self._dtype).to(self._device)

    def _example(self) -> Tensors:
        """Inputs of the shape that is served, as `_INPUTS` names them; all tokens are attended to."""
        shape = (self.settings.batch_size, self.settings.sequence_length)
        ids, segments = (self._torch.zeros(shape, dtype=self._torch.int64, device=self._device) for _ in range(2))
        return ids, self._torch.ones_like(ids), segments


class TorchTarget(_TorchRuntime):
    """The model as `transformers` runs it; on CUDA, by default, replayed as one graph."""

    engine: ClassVar[str] = "eager"

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        load(_MODELS, "encoder", "model")  # imports transformers, a part of this runtime

    def _open(self, artifact: Path) -> Compute:
        return self._encoder(artifact)


class CompiledTorchTarget(_TorchRuntime):
    """The code that ``torch.compile`` makes of the model, packaged once and for all.

    A measurement starts many processes. With ``torch.compile`` each of them would import the
    model's code, trace it and look its kernels up again, which takes longer than the measurement.
    The same compiler's ahead-of-time form, AOTInductor, does it once in `prepare`; what is loaded
    then is a shared library that needs neither Python code of the model nor guards, and is how a
    compiled model is deployed. The library serves one shape and one number of threads.
    """

    engine: ClassVar[str] = "inductor"

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        import torch._inductor.package  # a part of this runtime, of a hundred megabytes

        del torch

    def prepare(self, exported: Path, directory: Path) -> Path:
        encoder, package = self._encoder(exported), directory / _PACKAGE
        with _scratch_for_inductor(directory), warnings.catch_warnings(), self._torch.no_grad():
            warnings.simplefilter("ignore")  # of torch to itself
            try:
                program = self._torch.export.export(encoder, self._example(), strict=False)
                self._torch._inductor.aoti_compile_and_package(program, package_path=str(package))
            except Exception as error:  # whatever the tracer, the code generator or the C++ compiler raise
                raise TargetError(f"torch-compile cannot compile {exported}: {_why(error)}") from error
        return package

    def _open(self, artifact: Path) -> Compute:
        try:
            compiled = self._torch._inductor.aoti_load_package(
                str(artifact),
                run_single_threaded=True,  # its locks are CUDA events, which no CUDA graph may contain
                device_index=self._device.index if self._device.index is not None else -1,
            )
        except Exception as error:  # of several kinds, depending on what is wrong with the file
            raise TargetError(f"torch-compile cannot load {artifact}: {_why(error)}") from error
        run, shape = compiled.loader.boxed_run, (self.settings.batch_size, self.settings.sequence_length)

        def compute(*tensors: Any) -> Any:
            """As a server in C++ calls it: without the tree of Python containers around the tensors."""
            if any(tensor.shape != shape for tensor in tensors):  # the library would not notice
                raise TargetError(f"{artifact} was compiled for inputs {list(shape)}")
            return run([tensor.contiguous() for tensor in tensors])[0]  # nor would it look at strides

        return compute


def import_torch(settings: TargetSettings) -> Any:
    """The module; on CUDA the target's device becomes the current one.

    Raises:
        TargetError: torch is missing, or it finds no such device.
    """
    try:
        import torch
    except ImportError as error:
        raise TargetError(
            f"target.runtime is {settings.runtime}, but torch cannot be imported ({error}); "
            "install it with: pip install torch"
        ) from error
    if settings.device_type != "cuda":
        return torch
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = torch.device(settings.device).index or 0
    if index >= found:
        raise TargetError(
            f"target.device is {settings.device}, but torch {torch.__version__} finds {found} CUDA devices here; "
            "set target.device to one that is there, or install the CUDA build of torch and the driver"
        )
    torch.cuda.set_device(index)
    return torch


def _check_bfloat16(torch: Any, settings: TargetSettings) -> None:
    if settings.precision != "bfloat16":
        return
    if settings.device_type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        native = any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if not native:
        raise TargetError(
            f"target.precision is bfloat16, for which this {settings.device_type} has no instructions: it would be "
            "emulated, many times slower than float32; set target.precision to float32"
        )


@contextmanager
def _scratch_for_inductor(directory: Path) -> Iterator[None]:
    """Let the compiler leave its files, of several times the model's size, where they are deleted."""
    with (
        tempfile.TemporaryDirectory(dir=directory, prefix=".inductor-") as scratch,
        environment_variable("TORCHINDUCTOR_CACHE_DIR", scratch),
    ):
        yield


def _why(error: Exception) -> str:
    """The first line of the reason, and what to do where that is known."""
    line = first_line(error)
    if type(error).__name__ == "InvalidCxxCompiler" or "No working C++ compiler" in str(error):
        return f"{line.rstrip('.')}; install a C++ compiler such as g++, or set target.runtime to torch"
    return line
