"""Memory of a device in training, and what its activations move.

Everything is counted in float32; mixed precision halves a part of the activations.

Symbols::

    S tokens of a sequence, M masked tokens of a sequence, h hidden, b bottleneck, i intermediate,
    H heads, F stacked feed-forward networks, e width of the word table, V vocabulary, N teacher width
"""

from __future__ import annotations

from dataclasses import dataclass

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.models.parameter_count import count_parameters
from flashdistill.planning.teacher_shape import TeacherShape

_FLOAT = 4
TRAINING_BYTES = 4 * _FLOAT
"""Of a weight in training: itself, its gradient, the optimiser's two moments."""

LOGIT_MATRICES = 4
"""Of [M, V] at the peak of the loss: logits, the target, the log-softmax, the gradient."""

STUDENT_TRANSFERS = 8
"""Reads and writes of an element that autograd keeps, from its making to its gradient; eager kernels do not fuse."""

TEACHER_TRANSFERS = 2


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process.

    Attributes:
        student: weights, gradients and moments.
        teacher: weights.
        hidden_states: of both models, kept for the stages.
        per_sequence: activations and logits of each sequence at a time.
    """

    student: int
    teacher: int
    hidden_states: int
    per_sequence: float

    @property
    def fixed(self) -> int:
        """Whatever the batch."""
        return self.student + self.teacher + self.hidden_states

    def total(self, sequences: int) -> float:
        """With so many sequences at a time; buffers and fragmentation come on top."""
        return self.fixed + sequences * self.per_sequence


def student_weights(architecture: Architecture, family: StudentFamily) -> int:
    """Parameters of a student with pooler and both heads, as it is trained and delivered."""
    h, e, v = architecture.hidden_size, family.embedding_size, family.vocab_size
    head = h * h + 3 * h + (h - e) * v + v
    pooler_and_next_sentence = h * h + h + 2 * h + 2
    return count_parameters(architecture, family) + head + pooler_and_next_sentence


def kept_per_token(architecture: Architecture, family: StudentFamily, length: int) -> tuple[int, int]:
    """Elements that autograd keeps of a token: by each block, and by the embeddings."""
    h, b, i = architecture.hidden_size, architecture.bottleneck_size, architecture.intermediate_size
    inside = 7 * b if family.template == "autodistill" else 9 * b
    block = 2 * h + inside + architecture.num_heads * length + architecture.num_feedforward * (i + 2 * b)
    return block, 3 * family.embedding_size + 2 * h


def training_memory(
    architecture: Architecture,
    family: StudentFamily,
    teacher: TeacherShape,
    length: int,
    masked: float,
    hidden_states: int = 0,
) -> TrainingMemory:
    """What the pre-training distillation, the largest phase, needs.

    Args:
        masked: tokens of a sequence whose logits are formed.
        hidden_states: bytes set aside for those of the stages.
    """
    block, embeddings = kept_per_token(architecture, family, length)
    elements = length * (family.depth(architecture) * block + embeddings) + LOGIT_MATRICES * masked * family.vocab_size
    return TrainingMemory(
        student=TRAINING_BYTES * student_weights(architecture, family),
        teacher=_FLOAT * teacher.num_weights,
        hidden_states=hidden_states,
        per_sequence=_FLOAT * elements,
    )


def student_traffic(architecture: Architecture, family: StudentFamily, length: int) -> int:
    """Bytes that one block moves for a token, forwards and backwards."""
    return STUDENT_TRANSFERS * _FLOAT * kept_per_token(architecture, family, length)[0]


def teacher_traffic(teacher: TeacherShape, length: int) -> int:
    """Bytes that one block of the teacher moves for a token, forwards."""
    widths = 2 * teacher.hidden_size + 4 * teacher.attended_size
    elements = widths + 2 * teacher.num_heads * length + 2 * teacher.num_feedforward * teacher.intermediate_size
    return TEACHER_TRANSFERS * _FLOAT * elements
