"""Does the exported model compute what the original computes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flashdistill.core.errors import TargetError
from flashdistill.core.seeds import generator
from flashdistill.hardware.settings import TargetSettings

PARITY_TOLERANCE = 1e-4
"""Largest absolute error in float32, relative to the largest expected absolute value."""


@dataclass(frozen=True)
class Expected:
    """Inputs of the target's batch size and sequence length, and the original's answers.

    Attributes:
        inputs: int64 ``[batch, sequence]`` by input name.
        outputs: in the order of the exported model's outputs.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[np.ndarray]


def example_inputs(settings: TargetSettings, vocab_size: int, seed: int) -> dict[str, np.ndarray]:
    """Random tokens in two segments with padding at the end of each sequence.

    Returns ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64
    ``[batch_size, sequence_length]``. The padding is not empty: an export that ignores the mask
    gives other outputs.
    """
    batch, length = settings.batch_size, settings.sequence_length
    random = generator(seed, "example-inputs", batch, length)
    ids = random.integers(0, vocab_size, size=(batch, length), dtype=np.int64)
    position = np.arange(length)
    used = random.integers((length + 1) // 2, length + 1 - length // 8, size=(batch, 1))
    return {
        "input_ids": ids,
        "attention_mask": (position < used).astype(np.int64),
        "token_type_ids": np.broadcast_to(position >= length // 3, (batch, length)).astype(np.int64),
    }


def check_parity(name: str, got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest error relative to an output's scale.

    Raises:
        TargetError: an output is missing, has another shape, is not finite or is too far off;
            the message begins with ``export:``.
    """
    if len(got) != len(expected):
        raise TargetError(f"export: {name} has {len(got)} outputs instead of {len(expected)}")
    worst = 0.0
    for index, (value, wanted) in enumerate(zip(got, expected, strict=True)):
        if value.shape != wanted.shape:
            raise TargetError(f"export: output {index} of {name} has shape {value.shape} instead of {wanted.shape}")
        scale = max(float(np.abs(wanted).max(initial=0.0)), float(np.finfo(np.float32).tiny))
        error = float(np.abs(value.astype(np.float64) - wanted).max(initial=0.0)) / scale
        if not error <= PARITY_TOLERANCE:  # written so that NaN fails too
            raise TargetError(
                f"export: output {index} of {name} is off by {error:.3g} of its largest value "
                f"{scale:.3g} (allowed {PARITY_TOLERANCE:g})"
            )
        worst = max(worst, error)
    return worst
