"""Configuration section ``finetune``: how models are fine-tuned on downstream tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from flashdistill.core.settings import Section
from flashdistill.data.tasks.settings import NonEmpty, TaskSettings
from flashdistill.data.tasks.task import TaskKind
from flashdistill.training.settings import OptimizerName


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


TaskSetting = Annotated[TaskSettings, BeforeValidator(_named)]


class TaskDistillation(Section):
    """Learning a task from a teacher that has been fine-tuned on it, beside the labels.

    loss = (1 - ``weight``) · task loss + ``weight`` · T² · KL(teacher/T ‖ student/T); for a
    regression the mean squared difference from the teacher's value takes the place of the KL term.
    """

    teacher: NonEmpty = Field(description="a fine-tuned transformers directory, or a hub id")
    weight: float = Field(0.5, gt=0, le=1)
    temperature: float = Field(2.0, gt=0)


class Sweep(Section):
    """Choices that are all tried, or, beyond ``trials``, searched; the best by validation is kept."""

    learning_rate: list[float] = Field(default_factory=list)
    epochs: list[float] = Field(default_factory=list)
    batch_size: list[int] = Field(default_factory=list)
    trials: int = Field(8, ge=1, description="at most this many combinations are tried")


USUAL_LENGTH: dict[TaskKind, int] = {"classification": 128, "regression": 128, "question-answering": 384}
"""``max_length`` where none is set, in tokens: what BERT's authors and most others take for GLUE and SQuAD."""


class TuningSettings(Section):
    """One fine-tuning. The defaults suit GLUE-sized tasks; published small students use 1e-5 to 1e-4."""

    learning_rate: float = Field(5e-5, gt=0)
    epochs: float = Field(3.0, gt=0)
    batch_size: int = Field(32, ge=1)
    optimizer: OptimizerName = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    gradient_clip: float = Field(1.0, gt=0)
    dropout: float | None = Field(None, ge=0, lt=1, description="of the head and body; null: what the model says")
    max_length: int | None = Field(
        None,
        ge=8,
        description="tokens of a sequence, or of a question with its window of context; null: 128, for questions 384, "
        "or the model's positions where these are fewer",
    )
    document_stride: int = Field(128, ge=1, description="tokens that neighbouring windows of a context share")
    max_query_length: int = Field(64, ge=1)
    max_answer_length: int = Field(30, ge=1, description="tokens")
    n_best: int = Field(20, ge=1)
    distillation: TaskDistillation | None = None

    @property
    def tokens(self) -> int:
        """``max_length`` of settings that have one; see `sources.with_length`."""
        if self.max_length is None:
            raise ValueError("max_length is not known yet: it depends on the task and the model")
        return self.max_length


class FinetuneSettings(TuningSettings):
    """Section ``finetune`` of a run: what ``flashdistill evaluate`` does with its models."""

    tasks: list[TaskSetting] = Field(default_factory=list)
    seeds: int = Field(3, ge=1, description="fine-tunings of each model on each task")
    sweep: Sweep | None = None
    score: Literal["last", "best"] = Field(
        "last", description="the model after the last epoch, or the best of all epochs by the selecting split"
    )
