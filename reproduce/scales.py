"""The scales at which the paper's tables and figures are made.

``mini`` takes minutes on two cores and is the paper's Table 2 at a quarter of its widths; ``small``
takes about an hour on one GPU, at half the widths; ``paper`` has the paper's own sizes and budgets, of
which a script prints what they would cost, and which it starts only with ``--really``. All scripts
of a scale share one working directory, so what one has trained the others do not train again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flashdistill.config import RunConfig, load_config
from flashdistill.core.architecture import Architecture
from flashdistill.planning.teacher_shape import TeacherShape

ROOT = Path(__file__).parents[1]

PAPER_TABLE_2 = {
    "512_128_4_512_4": 25.3,
    "512_128_1_384_4": 22.2,
    "512_128_1_640_2": 20.6,
    "512_128_1_640_4": 28.5,
    "512_128_2_640_2": 20.6,
    "512_128_4_512_2": 19.0,
    "512_128_4_640_2": 20.6,
    "512_160_2_512_2": 22.8,
}
"""The architectures of the paper's Table 2, its baseline MobileBERT first, with the millions of
parameters that it prints."""


@dataclass(frozen=True)
class FineTuning:
    """How students, baseline and teacher are fine-tuned for a table.

    Attributes:
        section: the configuration's section ``finetune``; its ``seeds`` are those of the best student and
            of its control, the same architecture from scratch.
        seeds: of the other students, of the teacher, and of learning from the fine-tuned teacher.
        teacher: settings in which the teacher's fine-tuning differs: it is larger and was trained longer.
        students: how many of Table 2's, the best in masked words; None: all.
    """

    section: str
    seeds: tuple[int, int, int]
    teacher: Mapping[str, float] = field(default_factory=dict)
    students: int | None = None


_GLUE = FineTuning(
    "finetune={tasks: [cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb], seeds: 5, learning_rate: 1.0e-4, epochs: 5}",
    (3, 3, 3),
    {"learning_rate": 3e-5, "epochs": 3},
)
"""Without WNLI, which the paper and most others leave out."""

_SQUAD = FineTuning(
    "finetune={tasks: [squad], seeds: 5, learning_rate: 1.0e-4, epochs: 5}",
    (3, 2, 3),
    {"learning_rate": 3e-5, "epochs": 3},
)


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        config: a ready configuration; ``overrides`` change it.
        students: the architectures of Table 2, the baseline first.
        flash_seeds: trainings of each student of Table 2 by flash.
        repeats: how many students are trained in full with one more seed.
        audited: architectures of Figure 6.
        teacher: what the configured teacher is like.
        flops_per_s: what a machine is taken to sustain in such trainings, for estimates; far below
            its peak, because students this narrow fill no matrix unit.
        heavy: whether it needs machines that a script must not take by mistake.
        finetuning: by table.
    """

    name: str
    config: Path
    overrides: tuple[str, ...]
    students: tuple[Architecture, ...]
    flash_seeds: int
    repeats: int
    audited: int
    teacher: TeacherShape
    flops_per_s: float
    heavy: bool = False
    finetuning: Mapping[str, FineTuning] = field(default_factory=dict)

    def load(self, overrides: Sequence[str] = ()) -> RunConfig:
        """The configuration.

        Raises:
            ConfigError: an override is wrong.
        """
        return load_config(self.config, [*self.overrides, f"baseline={self.students[0]}", *overrides])


def table_2(divisor: int) -> tuple[Architecture, ...]:
    """The architectures of Table 2 with every width divided; heads and stacks stay as they are."""
    full = (Architecture.parse(name) for name in PAPER_TABLE_2)
    return tuple(
        replace(
            one,
            hidden_size=one.hidden_size // divisor,
            bottleneck_size=one.bottleneck_size // divisor,
            intermediate_size=one.intermediate_size // divisor,
        )
        for one in full
    )


_PAPER_BUDGET = ("flash.transfer_head=false", "regular.transfer_head=false")
"""The tool's head transfer is no part of the paper, and would add to its step counts."""

SCALES = {
    "mini": Scale(
        name="mini",
        config=ROOT / "benchmarks" / "search" / "table.yaml",
        overrides=(
            *_PAPER_BUDGET,
            "name=reproduce-mini",
            "corpus.validation_sequences=1536",
            # A tenth instead of the paper's twentieth: at a twentieth this teacher's students still
            # predict the commonest words.
            "flash.steps_per_block=24",
            "flash.pretraining_steps=160",
            "regular.steps_per_block=240",
            "regular.pretraining_steps=1600",
        ),
        students=table_2(4),
        flash_seeds=3,
        repeats=3,
        audited=16,
        teacher=TeacherShape(6, 384, 1536, 4096),
        flops_per_s=2e10,
        finetuning={
            # Students this small learn at a large rate only; what decides between them is topics, not pairs.
            "table3": FineTuning(
                "finetune={tasks: [{name: news-topics, max_train_rows: 1200}, {name: news-headlines, "
                "max_train_rows: 800}], seeds: 5, learning_rate: 3.0e-3, epochs: 4, batch_size: 16, max_length: 48}",
                (2, 1, 2),
                {"learning_rate": 1e-4, "epochs": 2},
            ),
            "table4": FineTuning(
                "finetune={tasks: [{name: wikipedia-cloze, max_train_rows: 600, max_evaluation_rows: 300}], seeds: 5, "
                "learning_rate: 3.0e-3, epochs: 3, batch_size: 16, max_length: 128, document_stride: 32}",
                (2, 1, 2),
                {"learning_rate": 1e-4, "epochs": 2},
                students=3,
            ),
        },
    ),
    "small": Scale(
        name="small",
        config=ROOT / "configs" / "quickstart.yaml",
        overrides=(
            *_PAPER_BUDGET,
            "name=reproduce-small",
            "teacher.fit_mlm_head={steps: 1500, batch_size: 32, learning_rate: 8.0e-4}",
            "corpus.max_length=128",
            "space={template: mobilebert, num_blocks: 6, embedding_size: 64, hidden_size: [64, 128, 192, 256], "
            "bottleneck_size: [32, 48, 64, 80], num_heads: [1, 2, 4, 8], intermediate_size: [192, 256, 320], "
            "num_feedforward: [2, 4, 6]}",
            "constraints=[]",
            "flash.seconds=null",
            "flash.batch_size=64",
            "flash.learning_rate=2.0e-3",
            "flash.steps_per_block=24",
            "flash.pretraining_steps=300",
            "regular={steps_per_block: 480, pretraining_steps: 6000, transfer_head: false}",
        ),
        students=table_2(2),
        flash_seeds=3,
        repeats=4,
        audited=24,
        teacher=TeacherShape(6, 384, 1536, 8192),
        flops_per_s=5e12,
        finetuning={"table3": _GLUE, "table4": _SQUAD},
    ),
    "paper": Scale(
        name="paper",
        config=ROOT / "configs" / "paper.yaml",
        # The masking that the paper's accuracies belong to, and the template of its parameter counts.
        overrides=(
            *_PAPER_BUDGET,
            "name=reproduce-paper",
            "corpus.max_predictions=20-per-512",
            "space.template=autodistill",
        ),
        students=table_2(1),
        flash_seeds=3,
        repeats=3,
        audited=16,
        teacher=TeacherShape(12, 768, 3072, 30522),  # BERT_BASE (Devlin et al. 2019)
        flops_per_s=1e14,
        heavy=True,
        finetuning={"table3": _GLUE, "table4": _SQUAD},
    ),
}
