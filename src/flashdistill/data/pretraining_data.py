"""Batches for masked-LM and next-sentence training, addressed by step.

Shapes: B sequences, S tokens (the longest of the batch, rounded up), M masked tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flashdistill.core.files import content_key
from flashdistill.core.seeds import generator
from flashdistill.data.batch import Batch, Ids
from flashdistill.data.masking import mask_draws, mask_tokens
from flashdistill.data.pairs import PairPlan, Units, make_units, plan_pairs
from flashdistill.data.settings import CorpusSettings
from flashdistill.data.split import Ranges
from flashdistill.data.token_cache import TokenisedCorpus
from flashdistill.data.tokenizer import PairTemplate, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PAD_TO_MULTIPLE = 8
"""Sequence lengths that matrix units like; fewer distinct shapes, too."""

_FORMAT = 1
"""Raised when the same settings come to mean other batches."""


@dataclass(frozen=True)
class Epoch:
    """The pairs of one epoch, the order in which they are shown, and the stream of their masks."""

    plan: PairPlan
    order: npt.NDArray[np.int32]
    mask_stream: tuple[object, ...]


class PretrainingData:
    """Training batches by step and fixed validation batches.

    Every epoch has other pairs in another order with other masks, all derived from the seed
    and the epoch, so a batch depends on its step alone: to resume is to ask for the next step.
    Validation pairs and masks depend on the corpus alone and are the same for every seed.
    """

    def __init__(
        self, corpus: TokenisedCorpus, tokenizer: PreTrainedTokenizerFast, settings: CorpusSettings, seed: int
    ):
        self._corpus = corpus
        self._settings = settings
        self._seed = seed
        self._template = PairTemplate.of(tokenizer)
        self._max_tokens = settings.max_length - self._template.num_special_tokens
        self._pad_id = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
        self._mask_id = int(tokenizer.mask_token_id)  # type: ignore[arg-type]
        self._is_special = np.zeros(len(tokenizer), dtype=bool)
        self._is_special[tokenizer.all_special_ids] = True
        self._replacement_ids = np.flatnonzero(~self._is_special)
        self._units = self._make_units(corpus.train)
        # Epochs at a border alternate, so two are kept.
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self.train_sequences = len(self._epoch(0).plan)
        """Pairs in an epoch. Epochs differ by a percent in what they pack; all are shown as
        this many (the number of the first), so that a step's epoch is known without planning
        the ones before: of longer ones a random rest is left out, in shorter ones some pairs
        come twice, with other masks."""
        self.identity = content_key(
            _FORMAT, corpus.identity, tokenizer_hash(tokenizer), settings.model_dump(exclude={"source"}), seed
        )
        """The same for the same batches; a key for what is computed from them."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The training batch of a step, or one rank's share of it.

        Args:
            step: counts from 0, across epochs.
            batch_size: B of the whole batch; rank ``r`` of ``world_size`` gets the rows from
                ``B * r // world_size`` on. All ranks pad to the same S.
        """
        if step < 0 or batch_size < 1 or not 0 <= rank < world_size <= batch_size:
            raise ValueError(f"no batch {step} of {batch_size} sequences for rank {rank} of {world_size}")
        samples = step * batch_size + np.arange(batch_size)
        epochs, indices = samples // self.train_sequences, samples % self.train_sequences
        parts = [(self._epoch(int(number)), indices[epochs == number]) for number in range(epochs[0], epochs[-1] + 1)]
        share = slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)
        return self._assemble(parts, share)

    def validation_batches(self, batch_size: int) -> Iterator[Batch]:
        """The held-out pairs in a fixed order with fixed masks; the last batch may be smaller."""
        count = self.validation_sequences
        for start in range(0, count, batch_size):
            indices = np.arange(start, min(start + batch_size, count))
            yield self._assemble([(self._validation_epoch, indices)], slice(None))

    @property
    def validation_sequences(self) -> int:
        """How many held-out pairs are scored."""
        return min(len(self._validation_epoch.plan), self._settings.validation_sequences)

    @cached_property
    def _validation_epoch(self) -> Epoch:
        plan = self._plan(self._make_units(self._corpus.validation), "validation")
        return self._ordered(plan, "validation")

    def _make_units(self, documents: Ranges) -> Units:
        return make_units(self._corpus.sentence_offsets, documents, self._max_tokens)

    def _make_epoch(self, number: int) -> Epoch:
        stream = (self._seed, "epoch", number)
        return self._ordered(self._plan(self._units, *stream), *stream)

    def _plan(self, units: Units, *stream: object) -> PairPlan:
        random = generator(*stream, "pairs")
        return plan_pairs(units, self._max_tokens, self._settings.short_sequence_fraction, random)

    @staticmethod
    def _ordered(plan: PairPlan, *stream: object) -> Epoch:
        order = generator(*stream, "order").permutation(len(plan)).astype(np.int32)
        return Epoch(plan, order, (*stream, "masks"))

    def _assemble(self, parts: list[tuple[Epoch, Ids]], share: slice) -> Batch:
        """The rows ``share`` of the batch that the parts' examples make, in order."""
        settings = self._settings
        columns = [_spans(epoch, indices) for epoch, indices in parts]
        starts, lengths, is_random = (np.concatenate(column) for column in zip(*columns, strict=True))
        longest = int(lengths.sum(axis=1).max()) + self._template.num_special_tokens
        width = min(-(-longest // _PAD_TO_MULTIPLE) * _PAD_TO_MULTIPLE, settings.max_length)
        draws = np.concatenate(
            [mask_draws(indices.tolist(), settings.max_length, *epoch.mask_stream) for epoch, indices in parts]
        )[share]
        input_ids, types, real = self._rows(starts[share], lengths[share], width)
        input_ids, positions, labels = mask_tokens(
            input_ids,
            real & ~self._is_special[input_ids],
            draws,
            mask_id=self._mask_id,
            replacement_ids=self._replacement_ids,
            fraction=settings.masked_fraction,
            max_predictions=settings.predictions_cap,
        )
        return Batch(input_ids, types, real.astype(np.int64), positions, labels, is_random[share].astype(np.int64))

    def _rows(self, starts: Ids, lengths: Ids, width: int) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
        """[B, width] token ids, token types and real tokens of pairs; ``starts``, ``lengths``: [B, 2]."""
        template = self._template
        first, second = lengths[:, :1], lengths[:, 1:]
        column = np.arange(width)[None, :]
        first_at = len(template.prefix)
        middle_at = first_at + first
        second_at = middle_at + len(template.middle)
        suffix_at = second_at + second
        in_first = (column >= first_at) & (column < middle_at)
        in_second = (column >= second_at) & (column < suffix_at)
        source = np.where(in_first, starts[:, :1] + column - first_at, starts[:, 1:] + column - second_at)
        in_text = in_first | in_second
        input_ids = np.full(in_text.shape, self._pad_id, dtype=np.int64)
        input_ids[in_text] = self._corpus.tokens[source[in_text]]
        rows = np.arange(len(lengths))
        for begin, tokens in (
            (0, template.prefix),
            (middle_at[:, 0], template.middle),
            (suffix_at[:, 0], template.suffix),
        ):
            for offset, token in enumerate(tokens):
                input_ids[rows, begin + offset] = token
        real = column < suffix_at + len(template.suffix)
        types = np.where(column < second_at, template.first_type, template.second_type) * real
        return input_ids, types.astype(np.int64), real


def _spans(epoch: Epoch, indices: Ids) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
    """[B, 2] starts and [B, 2] lengths of the examples' segments, [B] whether the second is random."""
    plan = epoch.plan
    chosen = epoch.order[indices % len(plan)]
    starts = np.stack([plan.first_start[chosen], plan.second_start[chosen]], axis=1)
    lengths = np.stack([plan.first_length[chosen], plan.second_length[chosen]], axis=1).astype(np.int64)
    return starts, lengths, plan.is_random[chosen]
