"""One batch of the masked-LM and next-sentence data.

Shapes: B sequences, S tokens (the longest of the batch), M masked tokens of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What a step trains on or is evaluated on.

    Attributes:
        input_ids: [B, S], masking applied.
        token_type_ids: [B, S], 0 for the first segment, 1 for the second.
        attention_mask: [B, S], 1 for tokens, 0 for padding.
        masked_positions: [M], ascending flat indices ``b * S + s`` of the predicted tokens.
        masked_labels: [M], the tokens that stood there.
        next_sentence_labels: [B], 0 where the second segment follows the first, 1 where it is
            random (the convention of `transformers`).
    """

    input_ids: Ids
    token_type_ids: Ids
    attention_mask: Ids
    masked_positions: Ids
    masked_labels: Ids
    next_sentence_labels: Ids

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.attention_mask.sum())
