"""What every contender works on: the pair of models, the batches, and the sizes of both.

Weights are random, because the cost of a step does not depend on them; they and the batches are
the same for every contender, so that all of them begin with the same loss.

Shapes: B sequences, S tokens, N teacher width, h student hidden size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, BertConfig, MobileBertForPreTraining, PreTrainedModel

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.seeds import generator
from flashdistill.data.batch import Batch
from flashdistill.distillation.layer_map import layer_map
from flashdistill.models.students import build_student

Kind = Literal["stage", "head", "pretraining"]

LEARNING_RATE = 1e-5
"""Small: a few steps from random weights must not end in numbers that are not finite."""

WEIGHT_DECAY = 0.01
GRADIENT_CLIP = 1.0
ALPHA = 0.5
"""Share of the hard masked-LM loss in Eq. 3."""

_IGNORED = -100
_FIRST_WORD = 5
_MASK = 4
_DISTINCT_BATCHES = 16


@dataclass(frozen=True)
class Task:
    """What a step is a step of: the stage of ``block`` (from 0), or one of the other phases."""

    kind: Kind
    block: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.block + 1}" if self.kind == "stage" else self.kind


PRETRAINING = Task("pretraining")


@dataclass(frozen=True)
class Workload:
    """A teacher, a student and the size of a batch.

    Attributes:
        name: of the pair, as the command line and the tables call it.
        architecture: the student's, as the paper writes it.
        student_blocks: its depth.
        masked_share: of the tokens that are to be predicted.
    """

    name: str
    teacher_blocks: int
    teacher_hidden_size: int
    teacher_heads: int
    teacher_intermediate_size: int
    architecture: str
    student_blocks: int
    vocab_size: int = 30522
    embedding_size: int = 128
    batch_size: int = 8
    length: int = 128
    masked_share: float = 0.15

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def student_architecture(self) -> Architecture:
        return Architecture.parse(self.architecture)

    @property
    def max_positions(self) -> int:
        return max(512, self.length)

    @property
    def family(self) -> StudentFamily:
        return StudentFamily(
            "autodistill", self.student_blocks, self.vocab_size, self.embedding_size, self.max_positions
        )

    def stages(self) -> list[Task]:
        """The stages that are measured: the first, the middle and the last."""
        last = self.student_blocks - 1
        return [Task("stage", block) for block in sorted({0, max(last // 2, 0), last})]

    def stage_shares(self) -> dict[Task, float]:
        """What part of all stage steps each measured stage stands for; they sum to 1.

        Between the measured stages the cost is taken as linear in the block.
        """
        stages = self.stages()
        measured = [task.block for task in stages]
        parts = np.eye(len(stages))
        depth = np.arange(self.student_blocks)
        return {task: float(np.interp(depth, measured, part).mean()) for task, part in zip(stages, parts, strict=True)}

    def teacher_block(self, block: int) -> int:
        """The teacher block (from 0) that the student's block ``block`` learns from."""
        return layer_map(self.student_blocks, self.teacher_blocks)[block]

    def build_teacher(self) -> PreTrainedModel:
        """A frozen BERT with a masked-LM head."""
        config = BertConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.teacher_hidden_size,
            num_hidden_layers=self.teacher_blocks,
            num_attention_heads=self.teacher_heads,
            intermediate_size=self.teacher_intermediate_size,
            max_position_embeddings=self.max_positions,
            initializer_range=self.teacher_hidden_size**-0.5,  # attention maps that are not flat
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            teacher = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
        return teacher.eval().requires_grad_(False)

    def build_student(self) -> MobileBertForPreTraining:
        return build_student(self.student_architecture, self.family, seed=2)

    def width_projection(self) -> torch.Tensor:
        """Where the layer from the student's width to the teacher's begins, [N, h]."""
        random = torch.Generator().manual_seed(3)
        hidden_size = self.student_architecture.hidden_size
        return torch.randn(self.teacher_hidden_size, hidden_size, generator=random) / hidden_size**0.5

    def batch(self, step: int) -> Batch:
        """The batch of a step; a few distinct ones take turns."""
        return _random_batch(self, step % _DISTINCT_BATCHES)

    def tensors(self, step: int) -> TensorBatch:
        return TensorBatch.from_arrays(self.batch(step))


@cache
def _random_batch(workload: Workload, number: int) -> Batch:
    random = generator("benchmark batch", number)
    shape = (workload.batch_size, workload.length)
    tokens = random.integers(_FIRST_WORD, workload.vocab_size, shape)
    masked = random.random(shape) < workload.masked_share
    masked[:, 1] = True
    positions = np.flatnonzero(masked.ravel())
    return Batch(
        input_ids=np.where(masked, _MASK, tokens),
        token_type_ids=np.broadcast_to((np.arange(shape[1]) >= shape[1] // 2).astype(np.int64), shape).copy(),
        attention_mask=np.ones(shape, dtype=np.int64),
        masked_positions=positions,
        masked_labels=tokens.ravel()[positions],
        next_sentence_labels=random.integers(0, 2, workload.batch_size),
    )


@dataclass(frozen=True)
class TensorBatch:
    """A batch as `transformers` takes it.

    Attributes:
        inputs: ``input_ids``, ``token_type_ids`` and ``attention_mask``, each [B, S].
        labels: [B, S], the token where one is to be predicted, else -100.
        next_sentence_label: [B].
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    next_sentence_label: torch.Tensor

    @classmethod
    def from_arrays(cls, batch: Batch) -> Self:
        labels = torch.full(batch.input_ids.shape, _IGNORED)
        labels.view(-1)[torch.from_numpy(batch.masked_positions)] = torch.from_numpy(batch.masked_labels)
        inputs = {
            "input_ids": torch.from_numpy(batch.input_ids),
            "token_type_ids": torch.from_numpy(batch.token_type_ids),
            "attention_mask": torch.from_numpy(batch.attention_mask),
        }
        return cls(inputs, labels, torch.from_numpy(batch.next_sentence_labels))

    def rows(self) -> Iterator[dict[str, torch.Tensor]]:
        """One example after the other, with every field under its own name."""
        for index in range(len(self.labels)):
            yield {
                **{name: value[index] for name, value in self.inputs.items()},
                "labels": self.labels[index],
                "next_sentence_label": self.next_sentence_label[index],
            }


PAIRS = {
    "12x384": Workload("12x384", 12, 384, 12, 1536, "512_128_4_512_2", 12),
    "24": Workload("24", 24, 512, 8, 2048, "512_128_4_512_2", 24),
}
"""The pairs of the published table, by name."""

QUICK_PAIR = Workload("quick", 2, 32, 4, 64, "32_16_2_32_1", 2, 200, embedding_size=16, batch_size=2, length=16)
"""A pair whose steps take milliseconds: it shows that everything runs and says nothing about speed."""
