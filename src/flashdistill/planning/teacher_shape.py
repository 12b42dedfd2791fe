"""A teacher's sizes, and what one pass of it computes, without its weights.

Symbols::

    T tokens of a batch, S tokens of a sequence, M masked tokens, N width, e width of the word
    table, I intermediate, V vocabulary
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from huggingface_hub import snapshot_download
from transformers import PretrainedConfig

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import InputError
from flashdistill.models.foreign import load_config, locate, names_directory
from flashdistill.models.ib_bert import projects_block_input
from flashdistill.models.settings import PretrainSettings, TeacherSettings
from flashdistill.models.work import encoder_flops

FORMAT = "LAYERSxHIDDENxINTERMEDIATExVOCABULARYxHEADS"
POSITIONS = 512
"""Rows of a teacher's table of positions."""

_SIZES = re.compile(r"\d+(x\d+){4}")
_LIKE_MOBILEBERT = ("mobilebert", "autodistill")


@dataclass(frozen=True)
class TeacherShape:
    """Of an encoder of BERT's or MobileBERT's kind; one of another family counts as a BERT of its sizes.

    Attributes:
        num_layers, hidden_size, num_heads: blocks, width N of the feature maps, attention heads.
        intermediate_size, num_feedforward: width I and number of a block's feed-forward networks.
        vocab_size: entries V.
        embedding_size: width e of the word table; None: N.
        template: ``bert``, or a student's template for blocks with bottlenecks.
        bottleneck_size: width inside such a block.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_heads: int = 12
    embedding_size: int | None = None
    template: str = "bert"
    bottleneck_size: int | None = None
    num_feedforward: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """``12x768x3072x30522x12``: layers, hidden, intermediate, vocabulary, heads.

        Raises:
            InputError: it is something else.
        """
        if not _SIZES.fullmatch(text) or 0 in (sizes := [int(size) for size in text.split("x")]):
            raise InputError(f"--teacher-shape: got {text!r}; write {FORMAT}, for example 12x768x3072x30522x12")
        layers, hidden, intermediate, vocabulary, heads = sizes
        return cls(layers, hidden, intermediate, vocabulary, heads)

    @property
    def attended_size(self) -> int:
        """Width of queries and keys."""
        return self.bottleneck_size or self.hidden_size

    @property
    def decoder_size(self) -> int:
        """Width N_d of what the masked-LM head multiplies the vocabulary with."""
        if self.template in _LIKE_MOBILEBERT:
            return self.hidden_size
        return self.embedding_size or self.hidden_size

    def block_flops(self, sequences: int, length: int) -> int:
        """One block forwards: dense layers and the two matrix products of attention."""
        if self.template in _LIKE_MOBILEBERT:
            return self._encoder_flops(2, sequences, length) - self._encoder_flops(1, sequences, length)
        n = self.hidden_size
        per_token = 4 * n * n + 2 * length * n + 2 * self.num_feedforward * n * self.intermediate_size
        return 2 * sequences * length * per_token

    def embedding_flops(self, sequences: int, length: int) -> int:
        """What leads from the word table to the first block; a look-up alone costs nothing."""
        if self.template in _LIKE_MOBILEBERT:
            return 2 * self._encoder_flops(1, sequences, length) - self._encoder_flops(2, sequences, length)
        if self.embedding_size in (None, self.hidden_size):
            return 0
        return 2 * sequences * length * self.embedding_size * self.hidden_size

    def attention_map_flops(self, sequences: int, length: int) -> int:
        """A block's scores once more, to show the map that its attention does not."""
        return 2 * sequences * length * length * self.attended_size

    def head_flops(self, masked: float) -> float:
        """Masked-LM logits of M tokens."""
        return 2 * masked * self.decoder_size * (self.hidden_size + self.vocab_size)

    def body_flops(self, sequences: int, length: int) -> int:
        """All blocks forwards."""
        return self.embedding_flops(sequences, length) + self.num_layers * self.block_flops(sequences, length)

    @property
    def num_weights(self) -> int:
        """Elements of the matrices: word and position tables, blocks, head; biases and norms are a percent more."""
        n, e = self.hidden_size, self.embedding_size or self.hidden_size
        # A dense layer has as many elements as it multiplies per token.
        dense = self.block_flops(1, 1) // 2 - 2 * self.attended_size
        extension = (n - e) * self.vocab_size if self.template in _LIKE_MOBILEBERT else 0
        return self.vocab_size * e + POSITIONS * n + self.num_layers * dense + n * self.decoder_size + extension

    def _encoder_flops(self, layers: int, sequences: int, length: int) -> int:
        assert self.bottleneck_size is not None
        assert self.embedding_size is not None
        sizes = Architecture(
            self.hidden_size, self.bottleneck_size, self.num_heads, self.intermediate_size, self.num_feedforward
        )
        family = StudentFamily(self.template, layers, self.vocab_size, self.embedding_size)
        return encoder_flops(sizes, family, sequences, length)


def teacher_shape(settings: TeacherSettings) -> TeacherShape:
    """The configured teacher's, from the settings or from its ``config.json``; nothing is downloaded.

    Raises:
        InputError: a model of the hub that is not in the hub's cache here; asks for ``--teacher-shape``.
        TeacherError: the directory or package is missing, or holds no encoder.
    """
    if settings.pretrain is not None:
        return _of_template(settings.pretrain)
    assert settings.model is not None
    if isinstance(settings.model, str) and not names_directory(settings.model):
        config = _of_hub_cache(settings.model)
    else:
        config = load_config(locate(settings.model))
    shape = shape_of(config)
    kept = settings.vocabulary
    return shape if kept is None else replace(shape, vocab_size=min(kept, shape.vocab_size))


def shape_of(config: PretrainedConfig) -> TeacherShape:
    """The sizes in a `transformers` configuration, whatever the family calls them."""
    if config.model_type == "mobilebert":
        return TeacherShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            vocab_size=config.vocab_size,
            num_heads=config.num_attention_heads,
            embedding_size=config.embedding_size,
            template="autodistill" if projects_block_input(config) else "mobilebert",
            bottleneck_size=config.intra_bottleneck_size,
            num_feedforward=config.num_feedforward_networks,
        )
    hidden = config.hidden_size
    return TeacherShape(
        num_layers=config.num_hidden_layers,
        hidden_size=hidden,
        # DistilBERT's configuration has no common name for it.
        intermediate_size=getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", 4 * hidden),
        vocab_size=config.vocab_size,
        num_heads=config.num_attention_heads,
        embedding_size=getattr(config, "embedding_size", None),
    )


def _of_template(settings: PretrainSettings) -> TeacherShape:
    return TeacherShape(
        num_layers=settings.num_layers,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        vocab_size=settings.vocab_size,
        num_heads=settings.num_heads,
        embedding_size=settings.embedding_size,
        template="bert" if settings.template == "bert" else "autodistill",
        bottleneck_size=settings.bottleneck_size,
        num_feedforward=settings.num_feedforward or 1,
    )


def _of_hub_cache(model: str) -> PretrainedConfig:
    try:
        # Nothing is downloaded.
        directory = snapshot_download(model, allow_patterns=["config.json"], local_files_only=True)  # nosec B615
    except (OSError, ValueError) as error:
        raise InputError(
            f"teacher.model: {model} is not on this machine, and a plan fetches nothing; give its sizes with "
            f"--teacher-shape {FORMAT} (BERT-base: 12x768x3072x30522x12)"
        ) from error
    return load_config(Path(directory))
