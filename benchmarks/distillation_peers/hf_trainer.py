"""A Hugging Face `Trainer` with its own ``compute_loss``, otherwise as it comes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import transformers
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.distillation_peers.clock import StepClock
from benchmarks.distillation_peers.contender import Contender, PlainPair, maps_arguments
from benchmarks.distillation_peers.workload import (
    GRADIENT_CLIP,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Task,
    TensorBatch,
    Workload,
)

_STEPS = 1_000_000
"""More than any run takes: the clock stops it."""


class HuggingFaceTrainer(Contender):
    """The Trainer's own loop, data loader, optimiser (its default, a fused AdamW) and schedule."""

    title: ClassVar[str] = "HF Trainer"

    def run(self, task: Task, clock: StepClock) -> None:
        reporter = _Reporter(clock)
        trainer = _DistillationTrainer(
            teacher=self.teacher,
            reporter=reporter,
            model=PlainPair(self.workload, task, self.timer),
            args=TrainingArguments(
                output_dir=str(self.directory),
                per_device_train_batch_size=self.workload.batch_size,
                max_steps=_STEPS,
                learning_rate=LEARNING_RATE,
                weight_decay=WEIGHT_DECAY,
                max_grad_norm=GRADIENT_CLIP,
                train_sampling_strategy="sequential",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                dataloader_pin_memory=False,
                remove_unused_columns=False,
            ),
            train_dataset=_Examples(self.workload),
            callbacks=[reporter],
        )
        trainer.train()

    def versions(self) -> dict[str, str]:
        return {"transformers": transformers.__version__}


class _Examples(Dataset[dict[str, torch.Tensor]]):
    """The workload's batches as single examples; the data loader puts them together again."""

    def __init__(self, workload: Workload):
        self._workload = workload
        self._rows: dict[int, list[dict[str, torch.Tensor]]] = {}

    def __len__(self) -> int:
        return _STEPS * self._workload.batch_size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        step, row = divmod(index, self._workload.batch_size)
        if step not in self._rows:
            self._rows = {step: list(self._workload.tensors(step).rows())}
        return self._rows[step][row]


class _Reporter(TrainerCallback):
    """Tells the clock of every step."""

    def __init__(self, clock: StepClock):
        self._clock = clock
        self.loss = float("nan")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._clock.step_done(self.loss):
            control.should_training_stop = True


class _DistillationTrainer(Trainer):
    def __init__(self, teacher: Any, reporter: _Reporter, **arguments: Any):
        super().__init__(**arguments)
        self._teacher, self._reporter = teacher, reporter

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels, next_sentence = inputs.pop("labels"), inputs.pop("next_sentence_label")
        batch = TensorBatch(inputs, labels, next_sentence)
        with torch.no_grad():
            of_teacher = self._teacher(**inputs, **maps_arguments(model.task))
        of_student = model(**inputs)
        loss = model.loss(of_teacher, of_student, batch)
        self._reporter.loss = float(loss.detach())
        return (loss, of_student) if return_outputs else loss
