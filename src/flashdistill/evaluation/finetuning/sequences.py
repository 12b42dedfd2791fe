"""Token sequences of different lengths: made from texts, ordered into steps, padded into batches.

Shapes: n sequences, T tokens of all of them, B sequences of a batch, S tokens of its longest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from flashdistill.core.seeds import derive_seed, generator
from flashdistill.models.inputs import Inputs
from flashdistill.models.single_blocks import accepted_inputs
from flashdistill.training.compute import Share

PAD_MULTIPLE = 8
"""Batches are as long as their longest sequence, rounded up to what matrix units like."""

TEXTS_AT_ONCE = 4096
"""Texts encoded together: enough for all cores, a bound on memory."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """n token sequences end to end.

    Attributes:
        tokens: [T], int32 token ids, special tokens included.
        segments: [T], int8 token types.
        offsets: [n + 1], int64; sequence i is ``tokens[offsets[i]:offsets[i + 1]]``.
        pad_token_id: what fills up a batch.
        longest_allowed: a batch is never padded beyond it.
    """

    tokens: npt.NDArray[np.int32]
    segments: npt.NDArray[np.int8]
    offsets: Indices
    pad_token_id: int
    longest_allowed: int

    @classmethod
    def of(cls, ids: list[list[int]], segments: list[list[int]], pad_token_id: int, longest_allowed: int) -> Sequences:
        """From a list of ids and one of token types for each sequence."""
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        flat_ids = np.fromiter((i for one in ids for i in one), np.int32, offsets[-1])
        flat_segments = np.fromiter((s for one in segments for s in one), np.int8, offsets[-1])
        return cls(flat_ids, flat_segments, offsets, pad_token_id, longest_allowed)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Indices:
        """[n], in tokens."""
        return np.diff(self.offsets)

    def batch(self, indices: Indices, device: torch.device | str = "cpu") -> Inputs:
        """The sequences ``indices`` as inputs [B, S], padded on the right."""
        lengths = self.lengths[indices]
        longest = int(lengths.max())
        width = max(longest, min(-(-longest // PAD_MULTIPLE) * PAD_MULTIPLE, self.longest_allowed))
        ids = np.full((len(indices), width), self.pad_token_id, dtype=np.int64)
        segments, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            taken = slice(self.offsets[index], self.offsets[index] + length)
            ids[row, :length], segments[row, :length], mask[row, :length] = self.tokens[taken], self.segments[taken], 1
        arrays = (("input_ids", ids), ("token_type_ids", segments), ("attention_mask", mask))
        return {name: torch.from_numpy(array).to(device) for name, array in arrays}


def encode(texts: list[str], pairs: list[str] | None, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Sequences:
    """Texts or pairs of texts with their special tokens, the longer text of a pair cut first."""
    ids: list[list[int]] = []
    segments: list[list[int]] = []
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        part = slice(begin, begin + TEXTS_AT_ONCE)
        encoded: Any = tokenizer(
            texts[part],
            pairs[part] if pairs is not None else None,
            truncation="longest_first",
            max_length=max_length,
            padding=False,
            return_token_type_ids=True,
            return_attention_mask=False,
        )
        ids += encoded["input_ids"]
        segments += encoded["token_type_ids"]
    return Sequences.of(ids, segments, tokenizer.pad_token_id or 0, max_length)  # type: ignore[arg-type]


@dataclass(frozen=True)
class StepOrder:
    """Which of n sequences a step takes: one permutation after another, each epoch's its own.

    All batches are equally large; one may end an epoch and begin the next. Which sequences a
    step takes depends on the seed and the step alone.

    Attributes:
        count: n, at least 1.
        batch_size: at most n.
        seed: of the permutations and of the dropout.
    """

    count: int
    batch_size: int
    seed: int

    def steps(self, epochs: float) -> int:
        """Steps in which every sequence is taken ``epochs`` times; at least 1."""
        # Rounded, for 0.1 · 30 is a little more than 3.
        return max(1, int(np.ceil(round(epochs * self.count / self.batch_size, 6))))

    def rows(self, step: int, share: Share) -> Indices:
        """The sequences of a share of a step's batch."""
        first = step * self.batch_size + self.batch_size * share.index // share.count
        last = step * self.batch_size + self.batch_size * (share.index + 1) // share.count
        epochs = range(first // self.count, (last - 1) // self.count + 1)
        stream = np.concatenate([_permutation(self.seed, epoch, self.count) for epoch in epochs])
        begin = epochs.start * self.count
        return stream[first - begin : last - begin]

    @contextmanager
    def dropout(self, step: int, share: Share, device: torch.device) -> Iterator[None]:
        """Random numbers that depend on the step and the share alone, whatever was drawn before.

        So a resumed training drops the same units as an uninterrupted one, in every process.
        """
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.seed, "dropout", step, share.index, share.count))
            yield


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> Indices:
    return generator(seed, "task order", epoch).permutation(count)


def by_length(sequences: Sequences, batch_size: int) -> Iterator[Indices]:
    """All sequences in batches of similar length, the longest first, so that memory runs out early or never."""
    order = np.argsort(-sequences.lengths, kind="stable")
    for begin in range(0, len(order), batch_size):
        yield order[begin : begin + batch_size]


@torch.no_grad()
def predict(
    model: PreTrainedModel,
    sequences: Sequences,
    batch_size: int,
    keep: Callable[[Indices, Any], None],
) -> None:
    """Run a model in evaluation mode over all sequences; its mode of before is restored.

    Args:
        keep: called with the indices [B] of a batch and what the model's forward returned for it.
    """
    training = model.training
    model.eval()
    try:
        for indices in by_length(sequences, batch_size):
            keep(indices, model(**accepted_inputs(model.config, sequences.batch(indices, model.device))))
    finally:
        model.train(training)
