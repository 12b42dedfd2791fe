"""A whole run in seconds: its configuration, its text, and a way to stand in its directory."""

from __future__ import annotations

import os
import random
from pathlib import Path

CONFIG = """\
name: tiny
teacher:
  pretrain: {hidden_size: 32, num_layers: 2, num_heads: 4, intermediate_size: 64, vocab_size: 250, steps: 20,
             batch_size: 16, learning_rate: 3.0e-3}
corpus: {source: {files: "text*.txt"}, max_length: 32, validation_fraction: 0.1, validation_sequences: 64}
space:
  num_blocks: 2
  embedding_size: 8
  hidden_size: [16, 32]
  bottleneck_size: [8, 16]
  num_heads: [1, 2]
  intermediate_size: [16, 32]
  num_feedforward: [1, 2]
baseline: 32_16_2_32_2
target:
  runtime: onnxruntime
  sequence_length: 32
  peak_flops_per_s: 1.0e11    # measuring them takes seconds
  peak_bytes_per_s: 1.0e10
  measurement: {seconds: 0.2, final_seconds: 0.2, block_ms: 2, patience_seconds: 0, tolerance: 0.9,
                final_tolerance: 0.9}
search: {algorithm: bayesian, trials: 3, confirm_seeds: 0}
flash: {steps_per_block: 2, pretraining_steps: 4, batch_size: 8, optimizer: adamw, learning_rate: 2.0e-3}
regular: {steps_per_block: 3, pretraining_steps: 6}
select: {top: 1}
execution: {kind: inprocess}
output: run
cache: cache
"""

WORDS = {
    "who": ["the cat", "a dog", "my friend", "the teacher", "one student", "the old king", "a bird", "the river"],
    "does": ["sees", "likes", "follows", "builds", "remembers", "finds", "carries", "paints"],
    "what": ["the house", "a red apple", "the long road", "his brother", "a song", "the blue sky", "an answer"],
    "when": ["today", "slowly", "in the morning", "with joy", "at night", "again", "near the sea"],
}


def write_text(directory: Path, documents: int = 40) -> None:
    choose = random.Random(0)
    for number in range(2):
        pages = []
        for _ in range(documents // 2):
            sentences = [" ".join(choose.choice(words) for words in WORDS.values()) + "." for _ in range(20)]
            pages.append(" ".join(sentence.capitalize() for sentence in sentences))
        (directory / f"text{number}.txt").write_text("\n\n\n".join(pages), encoding="utf-8")


def write_run(directory: Path) -> None:
    """Text and ``tiny.yaml``: all that a run needs."""
    write_text(directory)
    (directory / "tiny.yaml").write_text(CONFIG, encoding="utf-8")


class in_directory:
    """Work in a directory, as a user does whose configuration has relative paths."""

    def __init__(self, path: Path):
        self.path, self.before = path, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self.path)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)
