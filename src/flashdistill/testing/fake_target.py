"""A target whose latency, outputs and faults are written in its artifact, for tests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flashdistill.core.errors import TargetError
from flashdistill.core.files import write_json
from flashdistill.hardware.settings import Precision, TargetSettings
from flashdistill.hardware.targets.base import ArtifactFormat, Described, Inputs, Target


def write_fake_artifact(path: Path, latency_us: float = 200.0, **faults: Any) -> Path:
    """An artifact for `FakeTarget`.

    Args:
        latency_us: microseconds of CPU time that one call uses.
        faults: ``offset`` is added to the outputs; ``refuse`` is the message with which loading
            fails; ``crash`` names the call (``load`` or ``infer``) in which the process dies
            without a word, and ``crash_once`` a file whose absence limits that to the first time;
            ``chatter`` is printed by "native code" to file descriptor 1 at each call.
    """
    write_json(path, {"latency_us": latency_us, **faults})
    return path


def fake_outputs(inputs: Inputs) -> list[np.ndarray]:
    """What a faultless artifact answers: the token ids where attention is allowed, float32 ``[B, S]``."""
    return [(inputs["input_ids"] * inputs["attention_mask"]).astype(np.float32)]


class FakeTarget(Target):
    """Uses exactly the CPU time that its artifact asks for, however busy the machine is."""

    artifact: ClassVar[ArtifactFormat] = "fake"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {"cpu": ("float32", "bfloat16", "float16", "int8")}

    def __init__(self, settings: TargetSettings):
        super().__init__(settings)
        self._artifact: dict[str, Any] = {}

    def load(self, artifact: Path) -> None:
        try:
            self._artifact = json.loads(Path(artifact).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TargetError(f"fake cannot load {artifact}: {error}") from error
        if message := self._artifact.get("refuse"):
            raise TargetError(f"fake cannot load {artifact}: {message}")
        self._maybe_crash("load")

    def infer(self, inputs: Inputs) -> Sequence[np.ndarray]:
        end = time.process_time_ns() + int(self._artifact["latency_us"] * 1000)
        self._maybe_crash("infer")
        if chatter := self._artifact.get("chatter"):
            os.write(1, chatter.encode())
        outputs = [output + self._artifact.get("offset", 0.0) for output in fake_outputs(inputs)]
        while time.process_time_ns() < end:
            pass
        return outputs

    def describe(self) -> Described:
        return {
            "runtime": "fake",
            "runtime_version": "1",
            "provider": "fake",
            "precision": self.settings.precision,
            "threads": self.settings.threads,
            "cpu_bound": True,
        }

    def _maybe_crash(self, call: str) -> None:
        if self._artifact.get("crash") != call:
            return
        if once := self._artifact.get("crash_once"):
            if Path(once).exists():
                return
            Path(once).touch()
        os._exit(9)
