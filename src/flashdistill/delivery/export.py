"""Exported models: with random weights for measuring, with final weights for serving.

Shapes: B sequences, S tokens, h hidden size, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.hardware.cache import artifact_key, cached_artifact
from flashdistill.hardware.parity import Expected
from flashdistill.models import blocks
from flashdistill.models.onnx_writer import write_onnx
from flashdistill.models.students import build_student

ENCODER_FILE = "encoder.onnx"
"""Embeddings and blocks, [B, S] → [B, S, h]: what latency is measured on, and the base of tasks."""

MLM_FILE = "model.onnx"
"""The same with the masked-LM head, [B, S] → [B, S, V]."""


@torch.no_grad()
def expected_features(student: MobileBertForPreTraining, inputs: dict[str, np.ndarray]) -> Expected:
    """What an exported encoder must answer: the last feature map [B, S, h]."""
    return Expected(inputs, [blocks.last_hidden(student, _tensors(inputs)).numpy()])


@torch.no_grad()
def expected_logits(student: MobileBertForPreTraining, inputs: dict[str, np.ndarray]) -> Expected:
    """What an exported masked-LM model must answer: logits [B, S, V]."""
    return Expected(inputs, [student(**_tensors(inputs)).prediction_logits.numpy()])


def random_encoder(
    architecture: Architecture, family: StudentFamily, cache_root: Path
) -> tuple[MobileBertForPreTraining, Path]:
    """A student with random weights and its exported encoder, from the cache where it is there.

    Latency does not depend on the weights, so an architecture is exported once for all runs.
    """
    student = build_student(architecture, family, seed=0)
    key = artifact_key(architecture, family, "onnx")
    return student, cached_artifact(cache_root / "exports", key, lambda path: write_onnx(student, path), ENCODER_FILE)


def _tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}
