"""From arrays to the tensors a model takes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Inputs = dict[str, torch.Tensor]
"""``input_ids``, ``token_type_ids`` and ``attention_mask``, each [B, S]."""


class TokenArrays(Protocol):
    """What a batch must offer; each array is [B, S], int64."""

    @property
    def input_ids(self) -> npt.NDArray[np.int64]: ...
    @property
    def token_type_ids(self) -> npt.NDArray[np.int64]: ...
    @property
    def attention_mask(self) -> npt.NDArray[np.int64]: ...


def model_inputs(batch: TokenArrays, device: torch.device | str = "cpu") -> Inputs:
    """A batch's arrays as the tensors that a model's body takes."""
    return {
        name: torch.from_numpy(array).to(device)
        for name, array in (
            ("input_ids", batch.input_ids),
            ("token_type_ids", batch.token_type_ids),
            ("attention_mask", batch.attention_mask),
        )
    }
