"""The seam between fine-tuning and the kinds of tasks it knows: four verbs for each kind.

`finetune` trains and scores any task through these; a further kind is one file and one row below.

Shapes: n sequences, B of them in a batch, S tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from flashdistill.core import registry
from flashdistill.core.measurement import Measurement
from flashdistill.data.tasks.task import Rows, Task, TaskKind
from flashdistill.evaluation.finetuning.sequences import Sequences, StepOrder
from flashdistill.evaluation.finetuning.settings import TuningSettings
from flashdistill.training.loop import StepLoss

TASK_RECIPES: dict[str, str] = {
    "classification": "flashdistill.evaluation.finetuning.sentence_recipe:ClassificationRecipe",
    "regression": "flashdistill.evaluation.finetuning.sentence_recipe:RegressionRecipe",
    "question-answering": "flashdistill.evaluation.finetuning.question_recipe:QuestionRecipe",
}

Outputs = npt.NDArray[np.float32]
"""What a model says about n sequences, in their order; the further axes belong to the kind of task."""


@dataclass(frozen=True)
class Features:
    """Rows as a model takes them. A kind that needs more (labels, windows) makes a subclass.

    Attributes:
        sequences: n token sequences; n may exceed the number of rows, where a row has several.
    """

    sequences: Sequences

    def __len__(self) -> int:
        return len(self.sequences)


F = TypeVar("F", bound=Features)


class TaskRecipe(ABC, Generic[F]):
    """How one kind of task is trained and judged."""

    teacher_may_tokenise_otherwise: bool
    """Whether a teacher's outputs mean the same whatever its tokens are: true of one output a row."""

    @abstractmethod
    def features(self, rows: Rows, task: Task, tokenizer: PreTrainedTokenizerFast, settings: TuningSettings) -> F:
        """Tokenise rows of any split; their labels or answers come along where they have some.

        Raises:
            InputError: a row cannot be used; names it.
        """

    @abstractmethod
    def loss(
        self, model: PreTrainedModel, features: F, order: StepOrder, settings: TuningSettings, teacher: Outputs | None
    ) -> StepLoss:
        """The training loss, best a `losses.SequenceLoss`.

        Args:
            order: which sequences each step takes.
            teacher: what the fine-tuned teacher says about the very same sequences, as `outputs`
                gives it; None without ``settings.distillation``.
        """

    @abstractmethod
    def outputs(self, model: PreTrainedModel, features: F, batch_size: int) -> Outputs:
        """Predictions in evaluation mode for all sequences, in their order, [n, …] on the CPU.

        `sequences.predict` does the work.
        """

    @abstractmethod
    def scores(
        self, outputs: Outputs, features: F, rows: Rows, task: Task, settings: TuningSettings
    ) -> dict[str, Measurement]:
        """Every metric of ``task.metrics`` on labelled rows; `metrics.measure` makes the measurements."""


def recipe_for(kind: TaskKind) -> TaskRecipe[Any]:
    """The recipe of a kind of task.

    Raises:
        ValueError: no such kind.
    """
    return registry.load(TASK_RECIPES, kind, "kind of task")()
