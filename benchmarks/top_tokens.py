"""What it costs to keep only the teacher's most probable tokens (`signals.top_k`).

For each k: how much of the teacher's probability they hold, how far the gradient of Eq. 3 with
respect to the student's logits is from the exact one, and the bytes per masked token, next to
those of the feature map that gives the whole distribution. Teacher and text are those of a
configuration; the student is one that guesses by frequency alone, as every student does early.

    python -m benchmarks.top_tokens configs/quickstart.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from flashdistill.config import load_config
from flashdistill.console import ConsoleProgress
from flashdistill.core.seeds import derive_seed
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.distillation.losses import TopTokens, masked_lm_loss
from flashdistill.distillation.teacher_preparation import prepare_teacher
from flashdistill.models.inputs import model_inputs
from flashdistill.preflight import quiet_libraries
from flashdistill.training.compute import open_compute

KEPT = (8, 16, 32, 64, 128, 256, 1024)
BATCHES, BATCH_SIZE = 8, 16


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("override", nargs="*", help="KEY=VALUE")
    arguments = parser.parse_args()
    quiet_libraries()
    config = load_config(arguments.config, arguments.override)
    with ConsoleProgress() as progress:
        compute = open_compute(config.training)
        prepared = prepare_teacher(config.teacher, config.corpus, config.cache_directory, progress, compute)
    data = PretrainingData(prepared.corpus, prepared.tokenizer, config.corpus, derive_seed(0, "pretraining-data"))
    logits, labels = [], []
    for step in range(BATCHES):
        batch = data.batch(step, BATCH_SIZE)
        positions = torch.from_numpy(batch.masked_positions)
        logits.append(prepared.teacher.mlm_logits(prepared.teacher.masked_features(model_inputs(batch), positions)))
        labels.append(torch.from_numpy(batch.masked_labels))
    alpha = config.flash.losses.alpha
    print_table(torch.cat(logits), torch.cat(labels), alpha, prepared.teacher.shape.hidden_size)


def print_table(teacher: torch.Tensor, labels: torch.Tensor, alpha: float, width: int) -> None:
    """Kept probability, gradient error and bytes for every k; ``teacher`` is [M, V]."""
    frequency = torch.from_numpy(np.bincount(labels.numpy(), minlength=teacher.shape[1]) + 0.1)
    student = (frequency / frequency.sum()).log().float().expand_as(teacher)
    exact = gradient(student, teacher, labels, alpha)
    table = Table("k", "teacher's probability kept", "gradient error", "bytes a masked token")
    for kept in KEPT:
        top = teacher.topk(kept)
        found = gradient(student, TopTokens(top.indices, top.values), labels, alpha)
        error = ((found - exact).norm() / exact.norm()).item()
        mass = teacher.softmax(-1).gather(1, top.indices).sum(-1).mean().item()
        table.add_row(str(kept), f"{mass:.1%}", f"{error:.1%}", str(6 * kept))
    table.add_row("all", "100 %", "0 %", f"{2 * width} (feature map)")
    Console().print(table)


def gradient(
    student: torch.Tensor, teacher: torch.Tensor | TopTokens, labels: torch.Tensor, alpha: float
) -> torch.Tensor:
    """The gradient of the masked-LM loss with respect to the student's logits, [M, V]."""
    leaf = student.clone().requires_grad_(True)
    masked_lm_loss(leaf, teacher, labels, alpha).backward()
    assert leaf.grad is not None
    return leaf.grad


if __name__ == "__main__":
    main()
