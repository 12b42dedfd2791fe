"""A student architecture and what all students of one run share.

No torch here: the search, the configuration and the report all speak of architectures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

FACTORS = (
    "hidden_size",
    "bottleneck_size",
    "num_heads",
    "intermediate_size",
    "num_feedforward",
    "num_blocks",
)
"""The factors of a design space, in the order of an architecture's name."""


@dataclass(frozen=True, order=True)
class Architecture:
    """One point of the design space, written as the paper writes it: ``512_128_1_640_2``.

    The fields are the columns of the paper's Table 1: hidden size, bottleneck size, attention
    heads, intermediate size, stacked feed-forward networks per block. ``num_blocks`` is None
    unless the depth is searched too; then the name has a sixth field.
    """

    hidden_size: int
    bottleneck_size: int
    num_heads: int
    intermediate_size: int
    num_feedforward: int
    num_blocks: int | None = None

    def __str__(self) -> str:
        return "_".join(str(value) for value in self.values())

    def values(self) -> tuple[int, ...]:
        """The factors' values in the order of `FACTORS`; five, or six where depth is searched."""
        values = (
            self.hidden_size,
            self.bottleneck_size,
            self.num_heads,
            self.intermediate_size,
            self.num_feedforward,
        )
        return values if self.num_blocks is None else (*values, self.num_blocks)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``512_128_1_640_2``.

        Raises:
            ValueError: the text has not five or six positive integers, or the heads do not
                divide the bottleneck.
        """
        parts = str(text).strip().split("_")
        if len(parts) not in (5, 6) or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise ValueError(
                f"{text!r} is not an architecture; write hidden_bottleneck_heads_intermediate_"
                "feedforward as five positive integers, for example 512_128_4_512_4"
            )
        architecture = cls(*(int(part) for part in parts))
        if problem := architecture.problem():
            raise ValueError(f"{text} is impossible: {problem}")
        return architecture

    def problem(self) -> str | None:
        """Why no model of this architecture can exist; None if one can."""
        if self.bottleneck_size % self.num_heads:
            return f"{self.num_heads} heads do not divide the bottleneck of {self.bottleneck_size}"
        return None


@dataclass(frozen=True)
class StudentFamily:
    """What all students of one run share; with an `Architecture` it defines a model completely.

    Attributes:
        template: ``mobilebert`` or ``autodistill``.
        num_blocks: depth of an architecture that does not state its own.
        vocab_size: entries of the tokenizer, the teacher's.
        embedding_size: width of the word embedding table (128 in the paper).
        max_positions: longest sequence in tokens.
        type_vocab_size: segment types (2 for sentence pairs).
        pad_token_id: the padding token.
    """

    template: str = "mobilebert"
    num_blocks: int = 24
    vocab_size: int = 30522
    embedding_size: int = 128
    max_positions: int = 512
    type_vocab_size: int = 2
    pad_token_id: int = 0

    def depth(self, architecture: Architecture) -> int:
        """Number of blocks of this architecture in this family."""
        return architecture.num_blocks or self.num_blocks

    def with_vocab_size(self, vocab_size: int) -> StudentFamily:
        return replace(self, vocab_size=vocab_size)
