"""What a student takes over from its teacher before any training.

The embedding table is resampled along its principal directions: one orthonormal projection from
the teacher's width to the student's, shared by the table, the positions, the segment types and
the masked-LM head, so that the student's feature maps begin in one frame of reference.

Shapes: V vocabulary, N teacher width, h student hidden size, e student embedding size.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import MobileBertForPreTraining, PreTrainedModel


def principal_projection(table: torch.Tensor, width: int) -> torch.Tensor:
    """The projection [N, width] onto the principal directions of a table [V, N], largest first.

    Its columns are orthonormal; where ``width`` exceeds N the further columns are zero.
    """
    table = table.detach().double()
    _, vectors = torch.linalg.eigh(table.T @ table)
    directions = vectors.flip(1)
    # An eigenvector's sign is arbitrary; fix it so that every machine gets the same student.
    largest = directions.abs().argmax(0)
    directions = directions * directions.gather(0, largest[None]).sign()
    projection = torch.zeros(table.shape[1], width, dtype=torch.double)
    kept = min(width, table.shape[1])
    projection[:, :kept] = directions[:, :kept]
    return projection.float()


@torch.no_grad()
def initialise_from_teacher(student: MobileBertForPreTraining, teacher: PreTrainedModel) -> torch.Tensor:
    """Copy the teacher's embeddings and masked-LM head into the student, resampled to its widths.

    Blocks, pooler and next-sentence head keep their random weights.

    Returns:
        The projection [N, h] that was used; width adapters start from it.
    """
    teacher_embeddings: Any = teacher.get_input_embeddings()
    words: torch.Tensor = teacher_embeddings.weight
    embeddings: Any = student.mobilebert.embeddings
    hidden_size, embedding_size = embeddings.hidden_size, embeddings.embedding_size
    projection = principal_projection(words, hidden_size)
    resampled = words @ projection
    scale = student.config.initializer_range / resampled[:, :embedding_size].std()
    embeddings.word_embeddings.weight.copy_(resampled[:, :embedding_size] * scale)
    return projection
