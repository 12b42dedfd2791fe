"""Exported models: with random weights for measuring, with final weights for serving.

Shapes: B sequences, S tokens, h hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.hardware.cache import artifact_key, cached_artifact
from flashdistill.hardware.parity import Expected
from flashdistill.hardware.targets.base import ArtifactFormat
from flashdistill.models import blocks
from flashdistill.models.lively_student import lively_student
from flashdistill.models.onnx_writer import write_onnx
from flashdistill.models.parameter_count import count_parameters
from flashdistill.testing.fake_target import fake_outputs, write_fake_artifact

ENCODER_FILE = "encoder.onnx"
"""Embeddings and blocks, [B, S] → [B, S, h]: what latency is measured on, and the base of tasks."""

MLM_FILE = "model.onnx"
"""The same with the masked-LM head, [B, S] → [B, S, V]."""

_CHECKPOINT_FILE = "model.safetensors"
_FAKE_FILE = "model.json"

Arrays = dict[str, np.ndarray]


@torch.no_grad()
def expected_features(student: MobileBertForPreTraining, inputs: Arrays) -> Expected:
    """What an exported encoder must answer: the last feature map [B, S, h]."""
    return Expected(inputs, [blocks.last_hidden(student, tensors(inputs)).numpy()])


@torch.no_grad()
def expected_logits(student: MobileBertForPreTraining, inputs: Arrays) -> Expected:
    """What an exported masked-LM model must answer: logits [B, S, V]."""
    return Expected(inputs, [student(**tensors(inputs)).prediction_logits.numpy()])


def exported_encoder(
    architecture: Architecture, family: StudentFamily, cache_root: Path, artifact_format: ArtifactFormat
) -> tuple[Path, Callable[[Arrays], Expected]]:
    """An encoder with random weights as a target wants it, and what it must answer to given inputs.

    Latency does not depend on the weights, so an architecture is exported once for all runs. The
    model itself is built only where the cache lacks the export or its answers are asked for.

    Raises:
        ValueError: the architecture is impossible.
    """
    student = _RandomStudent(architecture, family)
    write, filename, expected = {
        "onnx": (student.write_onnx, ENCODER_FILE, student.expected),
        "checkpoint": (student.write_checkpoint, _CHECKPOINT_FILE, student.expected),
        "fake": (student.write_fake, _FAKE_FILE, _fake_expected),
    }[artifact_format]
    key = artifact_key(architecture, family, artifact_format, "lively")
    path = cached_artifact(cache_root / "exports", key, write, filename)
    return (path.parent if artifact_format == "checkpoint" else path), expected


def write_encoder(student: MobileBertForPreTraining, directory: Path, artifact_format: ArtifactFormat) -> Path:
    """A student's encoder as a target wants it, in a directory that exists.

    Raises:
        ValueError: models with weights are not written in this format.
    """
    if artifact_format == "onnx":
        write_onnx(student, directory / ENCODER_FILE)
        return directory / ENCODER_FILE
    if artifact_format == "checkpoint":
        _write_checkpoint(student, directory)
        return directory
    raise ValueError(f"no model can be written as {artifact_format}")


def _write_checkpoint(student: MobileBertForPreTraining, directory: Path) -> None:
    """``config.json`` and the weights that are served."""
    body = student.mobilebert
    served = {name: value for name, value in body.state_dict().items() if not name.startswith("pooler.")}
    body.save_pretrained(directory, state_dict=served)


class _RandomStudent:
    """A student that is built when it is first needed."""

    def __init__(self, architecture: Architecture, family: StudentFamily):
        self._architecture, self._family = architecture, family

    @cached_property
    def model(self) -> MobileBertForPreTraining:
        return lively_student(self._architecture, self._family, seed=0)

    def expected(self, inputs: Arrays) -> Expected:
        return expected_features(self.model, inputs)

    def write_onnx(self, path: Path) -> None:
        write_onnx(self.model, path)

    def write_checkpoint(self, path: Path) -> None:
        """``path`` is the weights' file."""
        _write_checkpoint(self.model, path.parent)

    def write_fake(self, path: Path) -> None:
        """Larger models are slower: 50 µs and 1 µs more for every 10,000 parameters."""
        write_fake_artifact(path, 50 + count_parameters(self._architecture, self._family) / 1e4)


def _fake_expected(inputs: Arrays) -> Expected:
    return Expected(inputs, fake_outputs(inputs))


def tensors(inputs: Arrays) -> dict[str, torch.Tensor]:
    """The arrays, not copied, as a model's keyword arguments."""
    return {name: torch.from_numpy(array) for name, array in inputs.items()}
