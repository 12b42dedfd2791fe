"""A teacher and text small enough for tests: real code paths in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, BertConfig, PretrainedConfig

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.seeds import generator
from flashdistill.data.batch import Batch
from flashdistill.models.teacher import Teacher

VOCAB_SIZE = 40
FIRST_WORD = 5
"""Entries below are special tokens: [PAD] [UNK] [CLS] [SEP] [MASK]."""

FAMILY = StudentFamily(num_blocks=2, vocab_size=VOCAB_SIZE, embedding_size=8, max_positions=32)
ARCHITECTURE = Architecture(16, 8, 2, 12, 2)


class TinyData:
    """Random batches by step, with the interface of `PretrainingData`; lengths vary, so there is padding.

    A token is followed by its successor more often than not, so there is something to learn.
    """

    def __init__(self, seed: int = 0, length: int = 12):
        self._seed, self._length = seed, length
        self.identity = f"tiny-{seed}-{length}"
        self.train_sequences = 1000
        self.validation_sequences = 32

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Batch:
        whole = self._batch(batch_size, self._seed, "batch", step)
        rows = slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)
        chosen = (whole.masked_positions // self._length >= rows.start) & (
            whole.masked_positions // self._length < rows.stop
        )
        return Batch(
            input_ids=whole.input_ids[rows],
            token_type_ids=whole.token_type_ids[rows],
            attention_mask=whole.attention_mask[rows],
            masked_positions=whole.masked_positions[chosen] - rows.start * self._length,
            masked_labels=whole.masked_labels[chosen],
            next_sentence_labels=whole.next_sentence_labels[rows],
        )

    def validation_batches(self, batch_size: int) -> Iterator[Batch]:
        for index in range(self.validation_sequences // batch_size):
            yield self._batch(batch_size, "validation", index)

    def _batch(self, batch_size: int, *stream: object) -> Batch:
        random = generator(*stream)
        length = self._length
        words = VOCAB_SIZE - FIRST_WORD
        ids = FIRST_WORD + (random.integers(0, words, (batch_size, 1)) + np.arange(length)) % words
        ids[:, 0], used = 2, random.integers(length // 2, length + 1, (batch_size, 1))
        used[0] = length
        real = np.arange(length) < used
        labels = np.where(real, ids, 0)
        masked = real & (random.random(ids.shape) < 0.2) & (ids >= FIRST_WORD)
        masked[:, 1] = True
        inputs = np.where(masked, 4, labels)
        types = ((np.arange(length) >= length // 2) & real).astype(np.int64)
        positions = np.flatnonzero(masked.ravel())
        return Batch(
            input_ids=inputs.astype(np.int64),
            token_type_ids=types,
            attention_mask=real.astype(np.int64),
            masked_positions=positions.astype(np.int64),
            masked_labels=labels.ravel()[positions].astype(np.int64),
            next_sentence_labels=random.integers(0, 2, batch_size).astype(np.int64),
        )


def tiny_teacher(config: PretrainedConfig | None = None, seed: int = 0) -> Teacher:
    """A random masked-LM encoder, a BERT of three blocks unless a configuration is given."""
    config = config or BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Teacher(AutoModelForMaskedLM.from_config(config, attn_implementation="eager"))
