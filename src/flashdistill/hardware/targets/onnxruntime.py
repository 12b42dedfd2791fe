"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashdistill.core.errors import TargetError
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.base import Described, Inputs, Target

_PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3


class OnnxRuntimeTarget(Target):
    """One session with all graph optimisations and a fixed number of threads."""

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        try:
            import onnxruntime
        except ImportError as error:
            raise TargetError(
                f"target.runtime is onnxruntime, which cannot be imported ({error}); "
                "install it with: pip install onnxruntime"
            ) from error
        self._runtime = onnxruntime
        self._session: Any = None

    def load(self, artifact: Path) -> None:
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
        self._session = None
        try:
            self._session = self._runtime.InferenceSession(str(artifact), options, providers=[_PROVIDER])
        except Exception as error:  # its exception classes share no public base
            raise TargetError(f"onnxruntime cannot load {artifact}: {error}") from error

    def infer(self, inputs: Inputs) -> Sequence[np.ndarray]:
        return self._session.run(None, inputs)

    def describe(self) -> Described:
        return {
            "runtime": "onnxruntime",
            "runtime_version": self._runtime.__version__,
            "provider": _PROVIDER,
            "precision": "float32",
            "threads": self.settings.threads,
            "cpu_bound": True,
        }
