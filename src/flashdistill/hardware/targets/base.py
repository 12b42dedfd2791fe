"""The seam between the measurement protocol and a serving runtime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flashdistill.hardware.settings import TargetSettings

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
    """

    def __init__(self, settings: TargetSettings):
        """Import the runtime.

        Raises:
            TargetError: the runtime is not installed; says what to install.
        """
        self.settings = settings

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
