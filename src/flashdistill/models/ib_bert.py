"""The paper's block as a teacher: MobileBERT's layers with queries and keys from the block input.

IB-BERT_LARGE, the teacher, and the students of the template ``autodistill`` are one family: a
narrow feature map between the blocks and another width inside them, wide for the teacher and
narrow for the student. Their directories say ``mobilebert`` in ``config.json``; what tells them
from stock MobileBERT is ``key_query_shared_bottleneck: false``, which the stock class cannot run.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoModelForMaskedLM,
    MobileBertConfig,
    MobileBertForMaskedLM,
    PretrainedConfig,
)

from flashdistill.models.students import project_block_input


class AutoDistillForMaskedLM(MobileBertForMaskedLM):
    """The masked-LM form of `models.students.AutoDistillForPreTraining`; loads its checkpoints too."""

    _keys_to_ignore_on_load_unexpected = [r"mobilebert\.pooler\.", r"cls\.seq_relationship\."]  # noqa: RUF012

    def __init__(self, config: MobileBertConfig):
        super().__init__(config)
        project_block_input(self.mobilebert, config)
        self.post_init()


def projects_block_input(config: PretrainedConfig) -> bool:
    """True for a model whose blocks project queries and keys from the block input (not stock MobileBERT)."""
    return (
        isinstance(config, MobileBertConfig)
        and config.use_bottleneck
        and not config.use_bottleneck_attention
        and not config.key_query_shared_bottleneck
    )


def masked_lm_class(config: PretrainedConfig) -> Any:
    """The class whose ``from_pretrained`` loads a model of this configuration in its masked-LM form."""
    return AutoDistillForMaskedLM if projects_block_input(config) else AutoModelForMaskedLM
