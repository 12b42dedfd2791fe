"""The seam between the measurement protocol and a serving runtime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from flashdistill.hardware.settings import Precision, TargetSettings

ArtifactFormat = Literal["onnx", "checkpoint", "fake"]
"""What a target is given: an ONNX file, a `transformers` model directory, a test's JSON file."""

Inputs = Mapping[str, np.ndarray]
Described = dict[str, str | int | float | bool]


class Target(ABC):
    """A serving runtime that runs one exported model in this process.

    The same call serves the parity check and the timing: `infer` takes host arrays and returns
    host arrays, as a server would use it, so what is timed is what was checked. A target lives
    in a runner process (`flashdistill.hardware.runner`), which pins it to its CPUs beforehand;
    its module must not import torch unless the runtime itself needs it, and it imports the
    runtime in ``__init__``, because the memory of an empty runner is noted right after that.

    To add a runtime, subclass this in a file of its own, add one row to
    `flashdistill.hardware.settings.TARGETS` and inherit
    `flashdistill.testing.target_conformance.TargetConformance` in a test.

    Attributes:
        artifact: the format of the exported model that the runtime starts from.
        precisions: what it can serve, by device type (``cpu``, ``cuda``).
        device_call: on an accelerator, set by `infer`: enqueues the same work again, inputs and
            outputs staying on the device, without waiting for it. Blocks are then timed with the
            device's own clock. None where the host's clock sees all of the work.
    """

    artifact: ClassVar[ArtifactFormat] = "onnx"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {"cpu": ("float32",)}
    device_call: Callable[[], None] | None = None

    def __init__(self, settings: TargetSettings):
        """Import the runtime.

        Raises:
            TargetError: the runtime is not installed; says what to install.
        """
        self.settings = settings

    @classmethod
    def prepares(cls, settings: TargetSettings) -> bool:
        """Whether there is anything to `prepare`; if not, no process is started for it."""
        del settings
        return cls.prepare is not Target.prepare

    def prepare(self, exported: Path, directory: Path) -> Path:
        """What is done once for a model, in a process of its own: quantising, building an engine.

        Returns what `load` takes: ``exported`` itself, or a file or directory under ``directory``,
        which exists and is empty.

        Raises:
            TargetError: the runtime cannot convert the model, or a tool for it is missing.
        """
        del directory
        return exported

    @abstractmethod
    def load(self, artifact: Path) -> None:
        """Make a model ready to serve; replaces one loaded before.

        Raises:
            TargetError: the runtime refuses the artifact.
        """

    @abstractmethod
    def infer(self, inputs: Inputs) -> Sequence[np.ndarray]:
        """Run the loaded model once on int64 inputs ``[batch, sequence]`` and wait for its outputs."""

    @abstractmethod
    def describe(self) -> Described:
        """What is being measured: at least the keys of `REQUIRED_DESCRIPTION`.

        ``cpu_bound`` is true where the work happens on this process's CPU threads. Only then does
        its CPU time say anything about a model's speed.
        """


REQUIRED_DESCRIPTION = ("runtime", "runtime_version", "provider", "precision", "threads", "cpu_bound")
