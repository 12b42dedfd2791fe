"""Questions and contexts as token ids, each distinct text once, and where in the text a token stands.

Shapes: N texts, T tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flashdistill.data.tokenizer import batches_of_text, plain_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class TokenisedTexts:
    """Texts one behind the other, without special tokens.

    Attributes:
        ids: [T], int32.
        bounds: [N + 1]; text n is ``ids[bounds[n] : bounds[n + 1]]``.
        begins, ends: [T], int32, the characters of its text that a token covers; several tokens
            may share a character. None where nobody asked for them.
    """

    ids: np.ndarray
    bounds: np.ndarray
    begins: np.ndarray | None = None
    ends: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """[N] tokens of each text."""
        return np.diff(self.bounds)

    def of(self, text: int) -> np.ndarray:
        """The ids of one text."""
        return self.ids[self.bounds[text] : self.bounds[text + 1]]

    def shortened(self, limit: int) -> TokenisedTexts:
        """The first ``limit`` tokens of every text; the places of tokens are forgotten."""
        place = np.arange(len(self.ids)) - np.repeat(self.bounds[:-1], self.lengths)
        bounds = np.concatenate([[0], np.cumsum(np.minimum(self.lengths, limit))])
        return TokenisedTexts(self.ids[place < limit], bounds)

    def covering(self, text: int, begin: int, end: int) -> tuple[int, int] | None:
        """The first and the last token, from 0, that cover a character of ``begin:end``.

        None where no token does: the tokenizer drops these characters.
        """
        assert self.begins is not None
        assert self.ends is not None
        tokens = slice(self.bounds[text], self.bounds[text + 1])
        first = int(np.searchsorted(self.ends[tokens], begin, side="right"))
        last = int(np.searchsorted(self.begins[tokens], end, side="left")) - 1
        return (first, last) if first <= last else None

    def characters(self, text: int, first: int, last: int) -> slice:
        """The characters from the first to the last token."""
        assert self.begins is not None
        assert self.ends is not None
        start = self.bounds[text]
        return slice(int(self.begins[start + first]), int(self.ends[start + last]))


def tokenised(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, *, offsets: bool) -> TokenisedTexts:
    """Encode texts in batches, so that memory holds one batch of encodings at a time."""
    backend = plain_backend(tokenizer)
    # The batched encoder without offsets is the faster one.
    encode = backend.encode_batch if offsets else backend.encode_batch_fast
    ids: list[np.ndarray] = []
    spans: list[np.ndarray] = []
    lengths: list[int] = []
    for batch in batches_of_text(texts):
        for encoding in encode(batch, add_special_tokens=False):
            ids.append(np.array(encoding.ids, dtype=np.int32))
            lengths.append(len(ids[-1]))
            if offsets:
                spans.append(np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2))
    none = np.zeros(0, np.int32)
    bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    flat = np.concatenate([none, *ids])
    if not offsets:
        return TokenisedTexts(flat, bounds)
    both = np.concatenate([none.reshape(0, 2), *spans])
    return TokenisedTexts(flat, bounds, both[:, 0].copy(), both[:, 1].copy())
