"""Does the exported model compute what the original computes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flashdistill.core.errors import TargetError
from flashdistill.core.seeds import generator
from flashdistill.hardware.settings import Precision, TargetSettings

PARITY_TOLERANCE = 1e-4
"""Largest absolute error in float32, relative to the largest expected absolute value."""

REDUCED_TOLERANCES: dict[Precision, float] = {"float16": 0.01, "bfloat16": 0.05, "int8": 0.09}
"""Largest root-mean-square error of a reduced precision, relative to the expected root mean square.

Single values say little there, their error grows with the number of values; the mean square does
not. Students of 4 and 24 blocks whose parts all matter (`lively_student`) have errors up to 0.001,
0.014 and 0.048 (0.071 where a CPU has room for 7 bits only); without the mask, a block or the order
of one layer's weights they have 0.12 or more.
"""


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
    # Half of a sequence or little more: the more padding there is, the more it shows.
    used = random.integers((length + 1) // 2, (length + 1) // 2 + length // 8 + 1, size=(batch, 1))
    return {
        "input_ids": ids,
        "attention_mask": (position < used).astype(np.int64),
        "token_type_ids": np.broadcast_to(position >= length // 3, (batch, length)).astype(np.int64),
    }


TRAINED_TOLERANCE = 0.5
"""The same for trained weights, whose outliers make quantising coarse without making the export wrong."""


def check_parity(
    name: str,
    got: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    precision: Precision = "float32",
    *,
    trained: bool = False,
) -> float:
    """The largest error of an output: of its values in float32, else of its mean square (see above).

    Args:
        name: the architecture, for messages.
        got: what the target answered, float32 whatever it computed in.
        expected: what the original answers in float32.
        precision: what the target computed in.
        trained: the weights are a finished model's: in a reduced precision its accuracy as served judges
            it, and only what cannot be rounding is refused.

    Raises:
        TargetError: an output is missing, has another shape, is not finite or is too far off;
            the message begins with ``export:``.
    """
    if len(got) != len(expected):
        raise TargetError(f"export: {name} has {len(got)} outputs instead of {len(expected)}")
    return max(
        (
            _check_output(f"output {index} of {name}", value, wanted, precision, trained)
            for index, (value, wanted) in enumerate(zip(got, expected, strict=True))
        ),
        default=0.0,
    )


def _check_output(name: str, got: np.ndarray, expected: np.ndarray, precision: Precision, trained: bool) -> float:
    if got.shape != expected.shape:
        raise TargetError(f"export: {name} has shape {got.shape} instead of {expected.shape}")
    difference = got.astype(np.float64) - expected
    if precision == "float32":
        measure, allowed, scale_name = _largest, PARITY_TOLERANCE, "largest value"
    else:
        measure, scale_name = _root_mean_square, "root mean square"
        allowed = TRAINED_TOLERANCE if trained else REDUCED_TOLERANCES[precision]
    scale = max(measure(expected), float(np.finfo(np.float32).tiny))
    error = measure(difference) / scale
    if not error <= allowed:  # written so that NaN fails too
        raise TargetError(
            f"export: {name} is off by {error:.3g} of its {scale_name} {scale:.3g} "
            f"(allowed in {precision}: {allowed:g})"
        )
    return error


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
