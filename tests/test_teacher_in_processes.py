"""A teacher trained by two processes together is the teacher that one process makes."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from flashdistill.config import load_config
from flashdistill.core.progress import Silent
from flashdistill.teacher_command import pretrain_teacher
from tests.two_processes import flashdistill_in_two_processes

CONFIG = """\
name: tiny
teacher:
  pretrain: {template: ib-bert, hidden_size: 16, bottleneck_size: 24, num_layers: 1, num_heads: 2,
             intermediate_size: 16, vocab_size: 200, steps: 6, batch_size: 7, learning_rate: 3.0e-3}
corpus: {source: {files: DIRECTORY/text.txt}, max_length: 24, validation_fraction: 0.2, validation_sequences: 16}
space: {num_blocks: 1, embedding_size: 8, hidden_size: [16], bottleneck_size: [8]}
baseline: 16_8_2_16_1
training: {device: cpu}
flash: {seconds: 3}
regular: {seconds: 6}
cache: DIRECTORY/cache
"""
PARTS = ("the cat", "a dog", "my friend", "one student"), ("sees", "likes", "follows"), ("a house", "the road")


def test_two_processes_train_one_teacher(tmp_path: Path) -> None:
    choose = random.Random(0)
    pages = [
        " ".join(" ".join(choose.choice(part) for part in PARTS).capitalize() + "." for _ in range(10))
        for _ in range(30)
    ]
    (tmp_path / "text.txt").write_text("\n\n\n".join(pages), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(CONFIG.replace("DIRECTORY", str(tmp_path)), encoding="utf-8")
    finished = flashdistill_in_two_processes(
        "pretrain-teacher", "tiny.yaml", "cache=other", "--output", "together", directory=tmp_path
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("name: IB-BERT 1x16\n")
    assert finished.stdout.count("name:") == 1
    pretrain_teacher(load_config(tmp_path / "tiny.yaml"), tmp_path / "alone", Silent())
    together, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("together", "alone"))
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        torch.testing.assert_close(together[name], values, rtol=1e-3, atol=1e-4)
