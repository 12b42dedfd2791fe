"""OpenVINO on the CPU.

A model is converted and compiled once, in `OpenVinoTarget.prepare`; what is loaded is the compiled
model, mapped into memory. For 24 blocks that takes a third of the CPU time of compiling again,
and a measurement loads a model a dozen times.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flashdistill.core.environment import environment_variable
from flashdistill.core.errors import TargetError
from flashdistill.core.files import read_json, write_json
from flashdistill.hardware.settings import Precision, TargetSettings
from flashdistill.hardware.targets.base import Described, Inputs, Target

_INSTALL = "install it with: pip install 'flashdistill[openvino]'"
_DEVICE = "CPU"
_COMPILED = "model.blob"
_OPTIONS = "options.json"

_HINT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
"""In what the layers compute that are not quantised. With the processor's own choice, OpenVINO's
default, a model meant for float32 would run in bfloat16 wherever there are instructions for it.
For ``int8`` that choice would be slower too: between quantised layers it only adds conversions."""

_CAPABILITY = {"bfloat16": "BF16", "float16": "FP16"}

_WIDEST_GROUP, _NARROWEST_GROUP, _GROUP_STEP = 128, 32, 16
_GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


class OpenVinoTarget(Target):
    """One stream, the target's threads, one shape, one precision.

    ``int8`` means: the weights of dense layers and embeddings are compressed by NNCF, one scale a
    row; activations are quantised as they come, in groups. Without the latter, weights are only
    unpacked to float32, which saves memory and no time.
    """

    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {"cpu": ("float32", "bfloat16", "float16", "int8")}

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        try:
            with _without_telemetry():
                import openvino
        except ImportError as error:
            raise TargetError(f"target.runtime is openvino, which cannot be imported ({error}); {_INSTALL}") from error
        self._openvino = openvino
        self._core = openvino.Core()
        self._refuse_emulation()
        self._request: Any = None
        self._mapped: Any = None
        self._group_size = 0

    def prepare(self, exported: Path, directory: Path) -> Path:
        """Convert, compress for ``int8``, compile for the target's shape; all in a directory of its own."""
        shape = [self.settings.batch_size, self.settings.sequence_length]
        try:
            model = self._core.read_model(str(exported))
            model.reshape(dict.fromkeys(model.inputs, shape))
        except Exception as error:  # whatever its frontends raise
            raise TargetError(f"openvino cannot read {exported}: {error}") from error
        options = {_GROUP_SIZE: _group_size(model) if self.settings.precision == "int8" else 0}
        if self.settings.precision == "int8":
            model = _compressed(model)
        place = directory / "openvino"
        place.mkdir()
        try:
            compiled = self._core.compile_model(model, _DEVICE, self._configuration(options))
            (place / _COMPILED).write_bytes(compiled.export_model().getvalue())
        except RuntimeError as error:
            raise TargetError(f"openvino cannot compile {exported}: {error}") from error
        write_json(place / _OPTIONS, options)
        return place

    def load(self, artifact: Path) -> None:
        self._request = None
        try:
            options = read_json(artifact / _OPTIONS)
            # Copy-on-write, because a tensor must be writeable; nothing is written.
            self._mapped = np.memmap(artifact / _COMPILED, dtype=np.uint8, mode="c")
            compiled = self._core.import_model(
                self._openvino.Tensor(self._mapped, shared_memory=True), _DEVICE, self._configuration(options)
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise TargetError(f"openvino cannot load {artifact}, which is not of its making: {error}") from error
        self._check_precision(compiled)
        self._group_size = options[_GROUP_SIZE]
        self._request = compiled.create_infer_request()

    def infer(self, inputs: Inputs) -> Sequence[np.ndarray]:
        results = self._request.infer(inputs, share_inputs=True, share_outputs=False)
        return list(results.values())

    def describe(self) -> Described:
        return {
            "runtime": "openvino",
            "runtime_version": self._openvino.__version__,
            "provider": f"{_DEVICE} plugin",
            "precision": self.settings.precision,
            "threads": self.settings.threads,
            "cpu_bound": True,
            "inference_precision": _HINT[self.settings.precision],
            "activation_group_size": self._group_size,
        }

    def _configuration(self, options: Mapping[str, int]) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": self.settings.threads,
            "ENABLE_CPU_PINNING": False,  # the runner is pinned
            "INFERENCE_PRECISION_HINT": _HINT[self.settings.precision],
            **options,
        }

    def _refuse_emulation(self) -> None:
        """OpenVINO replaces a precision that the processor lacks by another one, without a word."""
        needed = _CAPABILITY.get(self.settings.precision)
        if needed is None:
            return
        able = self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if needed not in able:
            others = [name for name, capability in _CAPABILITY.items() if capability in able]
            raise TargetError(
                f"target.precision is {self.settings.precision}, for which this CPU has no instructions; "
                f"choose {', '.join(['float32', *others])} or int8"
            )

    def _check_precision(self, compiled: Any) -> None:
        got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if got != _HINT[self.settings.precision]:
            raise TargetError(f"openvino computes in {got}, not as target.precision {self.settings.precision} asks")


def _group_size(model: Any) -> int:
    """How many neighbouring activations share a scale; zero where no layer is wide enough.

    The wider the groups, the faster, with about the same error (512_128_4_512_4: 38 ms for 32, 30 ms
    for 128). But a layer with fewer inputs than a group has is not quantised at all, so the
    narrowest one decides.
    """
    shapes = [
        (node.input(1).get_partial_shape(), bool(node.get_attributes()["transpose_b"]))
        for node in model.get_ops()
        if node.get_type_name() == "MatMul"
    ]
    dense = [(shape.to_shape(), transposed) for shape, transposed in shapes if shape.is_static and len(shape) == 2]
    widths = [shape[1 if transposed else 0] for shape, transposed in dense]
    narrowest = min((width for width in widths if width >= _NARROWEST_GROUP), default=0)
    return min(narrowest, _WIDEST_GROUP) // _GROUP_STEP * _GROUP_STEP


def _compressed(model: Any) -> Any:
    """The model with 8-bit weights.

    NNCF's default compiles one small model per weight to speed its arithmetic up. For our many
    small weights that takes ten times as long as NumPy does, for the same bits.
    """
    try:
        with _without_telemetry():
            import nncf
    except ImportError as error:
        raise TargetError(
            f"target.precision is int8, for which openvino needs nncf, which cannot be imported ({error}); {_INSTALL}"
        ) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own switch changes handlers that are not its own
    with environment_variable("NNCF_DISABLE_OPTIMIZED_COMPRESSION", "1"):
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Import OpenVINO's packages as if their telemetry were not installed, which they allow for.

    Else NNCF writes a client number into the home directory and reports every call to a web service.
    """
    name = "openvino_telemetry"
    present = name in sys.modules
    kept = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        yield
    finally:
        if present:
            sys.modules[name] = kept  # type: ignore[assignment]
        else:
            del sys.modules[name]
