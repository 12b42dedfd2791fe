"""Students with random weights every part of which shows in the outputs."""

from __future__ import annotations

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.models.students import build_student

_BRANCH_GAIN = 0.5
"""Of layers whose result is added to what they came from. Without a real normalisation in between,
a gain of one would double the variance a hundred times over."""


@torch.no_grad()
def lively_student(architecture: Architecture, family: StudentFamily, seed: int) -> MobileBertForPreTraining:
    """A student for comparing outputs in reduced precision.

    With freshly initialised weights a block adds little to what goes through it: leaving out the
    mask changes the outputs of a small student by 0.3 %, which is less than 8-bit arithmetic does.
    Here a dense layer keeps the variance of its inputs, so that the same mistake changes them by 12 % or
    more. The graph, and with it the latency, is the same.
    """
    student = build_student(architecture, family, seed)
    random = torch.Generator().manual_seed(seed)
    for block in student.mobilebert.encoder.layer:
        for name, layer in block.named_modules():
            if isinstance(layer, nn.Linear):
                gain = _BRANCH_GAIN if name.endswith(("output.dense", "output.bottleneck.dense")) else 1.0
                layer.weight.normal_(0.0, gain * layer.in_features**-0.5, generator=random)
    return student
