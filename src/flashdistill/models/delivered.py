"""Delivered students: writing them to a directory and reading them back."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import MobileBertConfig, MobileBertForPreTraining, PreTrainedTokenizerFast

from flashdistill.models.ib_bert import projects_block_input
from flashdistill.models.students import STUDENT_CLASSES, no_empty_tensor_warning


def save_student(student: MobileBertForPreTraining, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer, ready for `from_pretrained`."""
    student.save_pretrained(directory)
    tokenizer.save_pretrained(str(directory))


def load_student(directory: Path | str) -> MobileBertForPreTraining:
    """A delivered student of either template, in evaluation mode.

    Students of the template ``mobilebert`` load with `transformers` alone; those of the
    template ``autodistill`` need this function.
    """
    config = MobileBertConfig.from_pretrained(str(directory))
    template = "autodistill" if projects_block_input(config) else "mobilebert"
    with no_empty_tensor_warning():
        model = STUDENT_CLASSES[template].from_pretrained(
            str(directory), config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    return model.eval()
