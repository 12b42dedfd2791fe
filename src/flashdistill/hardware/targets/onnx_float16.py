"""An ONNX model whose weights and arithmetic are float16."""

from __future__ import annotations

import warnings
from pathlib import Path

_LARGEST = 1e4
"""What larger constants become: above all the attention mask's, to which scores are added."""


def write_float16(exported: Path, path: Path, *, keep_io_types: bool) -> None:
    """Convert a float32 model.

    Args:
        keep_io_types: leave the outputs in float32, by a cast at the end.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of every constant that it makes smaller
        model = onnx.load(str(exported))
        onnx.save(convert_float_to_float16(model, max_finite_val=_LARGEST, keep_io_types=keep_io_types), str(path))
