"""What a student takes over from its teacher before any training.

The student's feature maps begin in a frame of reference of their own: a projection of the
teacher's onto the principal directions of its embedding output. Into this frame

- the embedding table is resampled along *its* principal directions, and the layers behind it
  (trigram transform, positions, segment types) are fitted by least squares to the teacher's
  embedding output;
- the masked-LM head is resampled along the same directions as the table it is tied to, and its
  norm gives what the teacher's head feeds its own decoder, in mean and variance.

Blocks begin close to the identity: what a block adds to its input starts small, but its queries
and keys start large enough to learn from. (MobileBERT has no layer norm; with its usual
initialisation attention stays uniform for hundreds of steps.)

Nothing here depends on the teacher's family.

Shapes: T tokens, M masked tokens, V vocabulary, N teacher width, N_d width of the teacher's
decoder, h student hidden size, e student embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import MobileBertForPreTraining

from flashdistill.models.inputs import Inputs
from flashdistill.models.teacher import Teacher

RIDGE = 1e-3
"""Of the least squares, relative to the mean square of the inputs."""

RESIDUAL_GAIN = 0.05
"""Standard deviation of layers that add to the residual stream, relative to fan-in scaling."""

HEAD_BIAS = 2.0
"""Keeps the ReLU of the student's masked-LM head linear at first; the norm behind it removes it."""


@dataclass(frozen=True)
class TeacherSample:
    """What the teacher makes of a few batches, seen before any training.

    Attributes:
        inputs: the batches.
        embeddings: [T, N], the embedding output at every token of the batches.
        decoder_inputs: [M, N_d], what the head feeds its decoder at masked tokens.
    """

    inputs: Sequence[Inputs]
    embeddings: torch.Tensor
    decoder_inputs: torch.Tensor


@dataclass(frozen=True)
class Frame:
    """How a student's features relate to its teacher's.

    Attributes:
        features: [N, h], orthonormal columns; feature maps start as projections with it.
        decoder: [N_d, h], orthonormal columns; the same for what enters the decoder.
        decoder_scale: the student's decoder is the teacher's in this frame, times this.
    """

    features: torch.Tensor
    decoder: torch.Tensor
    decoder_scale: float


@torch.no_grad()
def sample_teacher(teacher: Teacher, batches: Sequence[tuple[Inputs, torch.Tensor]]) -> TeacherSample:
    """Run the teacher on batches given as inputs and masked positions [M]; the result is on the CPU."""
    embeddings = [teacher.blocks.embed(inputs).flatten(0, 1).cpu() for inputs, _ in batches]
    decoder_inputs = [teacher.decoder_inputs(teacher.masked_features(*batch)).cpu() for batch in batches]
    inputs = [{name: values.cpu() for name, values in inputs.items()} for inputs, _ in batches]
    return TeacherSample(inputs, torch.cat(embeddings), torch.cat(decoder_inputs))


def principal_directions(rows: torch.Tensor, count: int) -> torch.Tensor:
    """The projection [N, count] onto the principal directions of rows [T, N], largest first.

    Its columns are orthonormal; where ``count`` exceeds N the further columns are zero.
    """
    rows = rows.detach().double()
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    directions = vectors.flip(1)
    # An eigenvector's sign is arbitrary; fix it so that every machine gets the same student.
    largest = directions.abs().argmax(0)
    directions = directions * directions.gather(0, largest[None]).sign()
    projection = torch.zeros(rows.shape[1], count, dtype=torch.double)
    kept = min(count, rows.shape[1])
    projection[:, :kept] = directions[:, :kept]
    return projection.float()


@torch.no_grad()
def initialise_from_teacher(
    student: MobileBertForPreTraining, teacher: Teacher, sample: TeacherSample, seed: int
) -> Frame:
    """Give a student (on the CPU) its embeddings and head from the teacher, and blocks that can learn quickly."""
    features = principal_directions(sample.embeddings, int(student.config.hidden_size))
    decoder = principal_directions(teacher.decoder_matrix.cpu(), int(student.config.hidden_size))
    scale = _resample_head(student, teacher, decoder, sample.decoder_inputs)
    _fit_embeddings(student.mobilebert.embeddings, sample, features)
    _initialise_blocks(student, seed)
    return Frame(features, decoder, scale)


def _resample_head(
    student: MobileBertForPreTraining, teacher: Teacher, directions: torch.Tensor, decoder_inputs: torch.Tensor
) -> float:
    """The table (tied to the decoder), the rest of the decoder, and the norm in front of it."""
    head: Any = student.cls.predictions
    embedding_size = int(student.config.embedding_size)
    rows = teacher.decoder_matrix.cpu() @ directions
    # Rows of the size that students usually start with; the norm makes up for it.
    scale = float(student.config.initializer_range / rows[:, :embedding_size].std())
    head.decoder.weight.copy_(rows[:, :embedding_size] * scale)
    head.dense.weight.copy_(rows[:, embedding_size:].T * scale)
    if teacher.decoder_bias is not None:
        head.decoder.bias.copy_(teacher.decoder_bias)
    wanted = decoder_inputs @ directions
    head.transform.LayerNorm.weight.copy_(wanted.std(0) / scale)
    head.transform.LayerNorm.bias.copy_(wanted.mean(0) / scale)
    head.transform.dense.bias.fill_(HEAD_BIAS)
    return scale


def _initialise_blocks(student: MobileBertForPreTraining, seed: int) -> None:
    random = torch.Generator().manual_seed(seed % 2**63)
    encoder: Any = student.mobilebert.encoder
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.Linear):
            adds_to_residual = name.endswith(("output.dense", "output.bottleneck.dense"))
            deviation = layer.in_features**-0.5 * (RESIDUAL_GAIN if adds_to_residual else 1.0)
            layer.weight.normal_(0.0, deviation, generator=random)


def _fit_embeddings(embeddings: Any, sample: TeacherSample, frame: torch.Tensor) -> None:
    """Least squares from the token's own row to the teacher's embedding output; the rest by position and type."""
    tokens = torch.cat([inputs["input_ids"].flatten() for inputs in sample.inputs])
    types = torch.cat([inputs["token_type_ids"].flatten() for inputs in sample.inputs])
    positions = torch.cat([torch.arange(i["input_ids"].numel()) % i["input_ids"].shape[1] for i in sample.inputs])
    rows = embeddings.word_embeddings(tokens)
    size = rows.shape[1]
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    gram = rows.T @ rows
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    wanted = sample.embeddings @ frame
    solution = torch.linalg.solve(gram, rows.T @ wanted)
    residual = wanted - rows @ solution
    # The trigram is (next, own, previous): only the token's own row is used to begin with.
    transformation = embeddings.embedding_transformation
    transformation.weight.zero_()
    transformation.weight[:, size : 2 * size] = solution[:-1].T
    transformation.bias.copy_(solution[-1])
    for table, indices in ((embeddings.position_embeddings, positions), (embeddings.token_type_embeddings, types)):
        means = _group_means(residual, indices, len(table.weight))
        table.weight.copy_(means)
        residual = residual - means[indices]


def _group_means(values: torch.Tensor, groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """[T, h] values in groups [T] → their means [num_groups, h]; zero for an empty group."""
    sums = torch.zeros(num_groups, values.shape[1]).index_add_(0, groups, values)
    counts = torch.bincount(groups, minlength=num_groups).clamp_min(1)
    return sums / counts[:, None]
