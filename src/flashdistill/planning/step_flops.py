"""Floating-point operations of single steps, as the code runs them; a multiply-add counts as two.

Counted are matrix products, as `models.work` does and PyTorch's own counter. Norms, activations,
softmax and the optimiser are a few operations per element; they cost memory traffic
(`planning.memory_traffic`).

A backward pass costs two forward passes: gradients of inputs and of weights. Where nothing before a
layer is trained, the gradient of its input is not formed.

Symbols::

    T tokens of a batch, S tokens of a sequence, M masked tokens of a batch, h student width,
    b bottleneck, H heads, N teacher width, N_d width before the teacher's decoder, V vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.data.settings import CorpusSettings
from flashdistill.distillation.settings import LossSettings
from flashdistill.models.work import encoder_flops
from flashdistill.planning.teacher_shape import TeacherShape

FORWARD_AND_BACKWARD = 3
SPECIAL_TOKENS = 3
"""Around and between the sentences of a pair; they are never masked."""


@dataclass(frozen=True)
class BatchShape:
    """A padded batch: sequences, their length in tokens, and masked tokens of the whole batch."""

    sequences: int
    length: int
    masked: float

    @property
    def tokens(self) -> int:
        return self.sequences * self.length

    @property
    def all_masked(self) -> BatchShape:
        """The same batch where logits are formed at every position."""
        return replace(self, masked=float(self.tokens))

    @classmethod
    def of(cls, corpus: CorpusSettings, sequences: int) -> BatchShape:
        """A batch of full sequences; real ones have a few masked tokens less."""
        masked = max(1, round(corpus.masked_fraction * (corpus.max_length - SPECIAL_TOKENS)))
        return cls(sequences, corpus.max_length, float(sequences * min(masked, corpus.predictions_cap or masked)))


@dataclass(frozen=True)
class StudentSteps:
    """The steps of one architecture beside one teacher."""

    architecture: Architecture
    family: StudentFamily
    teacher: TeacherShape
    losses: LossSettings

    @property
    def depth(self) -> int:
        return self.family.depth(self.architecture)

    def block(self, batch: BatchShape) -> int:
        """One block forwards."""
        return self._encoder(2, batch) - self._encoder(1, batch)

    def embedding(self, batch: BatchShape) -> int:
        """What leads from the word table to the first block."""
        return 2 * self._encoder(1, batch) - self._encoder(2, batch)

    def body(self, batch: BatchShape) -> int:
        """Embeddings and blocks forwards."""
        return self._encoder(self.depth, batch)

    def stage(self, batch: BatchShape, block: int, soft: bool) -> float:
        """A stage step: the block forwards and backwards with its adapters and losses.

        What runs before the block to form its input is not part of it, but for a soft freeze.

        Args:
            block: from 0.
            soft: whether the blocks before learn, too, and are run and differentiated with it.
        """
        trained = block + 1 if soft else 1
        flops = FORWARD_AND_BACKWARD * (trained * self.block(batch) + self._stage_losses(batch))
        return flops - self._input_layers(batch) + self._teacher_relations(batch)

    def head_transfer(self, batch: BatchShape) -> float:
        """A step of the head's fit; nothing in it grows with the vocabulary."""
        h = self.architecture.hidden_size
        return 2 * batch.masked * h * (2 * h + self.teacher.decoder_size)

    @property
    def head_transfer_begin(self) -> int:
        """Once a distillation: the norms of the resampled decoder's columns."""
        return 2 * self.teacher.vocab_size * self.teacher.decoder_size * self.architecture.hidden_size

    def pretraining(self, batch: BatchShape) -> float:
        """A step of Eq. 3: body, logits at masked tokens, next sentences, forwards and backwards."""
        flops = FORWARD_AND_BACKWARD * (self.body(batch) + self.head(batch)) + self._pooler(batch)
        if self.losses.nsp:
            flops += FORWARD_AND_BACKWARD * (self._pooler(batch) + self._next_sentence(batch))
        return flops

    def scoring(self, batch: BatchShape) -> float:
        """Body and both heads forwards, as held-out text is scored."""
        return self.body(batch) + self.head(batch) + 2 * self._pooler(batch) + self._next_sentence(batch)

    def head(self, batch: BatchShape) -> float:
        """Masked-LM logits forwards."""
        h = self.architecture.hidden_size
        return 2 * batch.masked * h * (h + self.family.vocab_size)

    def _encoder(self, layers: int, batch: BatchShape) -> int:
        return encoder_flops(replace(self.architecture, num_blocks=layers), self.family, batch.sequences, batch.length)

    def _input_layers(self, batch: BatchShape) -> int:
        """One pass of the layers that a block's input enters: bottlenecks, value; for the paper's block q and k."""
        layers = 4 if self.family.template == "autodistill" else 3
        return 2 * batch.tokens * layers * self.architecture.hidden_size * self.architecture.bottleneck_size

    def _stage_losses(self, batch: BatchShape) -> int:
        """Forwards: the width adapter, and attention scores once more, mixed where head counts do not fit."""
        sizes, teacher = self.architecture, self.teacher
        per_token = sizes.hidden_size * teacher.hidden_size
        if self.losses.attention:
            per_token += batch.length * sizes.bottleneck_size
            if teacher.num_heads % sizes.num_heads and sizes.num_heads % teacher.num_heads:
                per_token += batch.length * sizes.num_heads * teacher.num_heads
        flops = 2 * batch.tokens * per_token
        if self.losses.relations:
            flops += 3 * 2 * batch.tokens * batch.length * sizes.bottleneck_size
        return flops

    def _teacher_relations(self, batch: BatchShape) -> int:
        """Relations of the teacher's queries, keys and values, formed anew in every step."""
        if not self.losses.relations:
            return 0
        return 3 * 2 * batch.tokens * batch.length * self.teacher.attended_size

    def _pooler(self, batch: BatchShape) -> int:
        return 2 * batch.sequences * self.architecture.hidden_size**2

    def _next_sentence(self, batch: BatchShape) -> int:
        return 2 * batch.sequences * self.architecture.hidden_size * 2
