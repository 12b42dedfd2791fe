"""Classification and regression of single texts and pairs of texts.

Shapes: n rows, C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from flashdistill.core.errors import DivergedError
from flashdistill.core.measurement import Measurement
from flashdistill.data.tasks.task import Rows, Sentences, Task
from flashdistill.evaluation.finetuning.kinds import Features, Outputs, TaskRecipe
from flashdistill.evaluation.finetuning.losses import ClassificationLoss, RegressionLoss
from flashdistill.evaluation.finetuning.metrics import measure
from flashdistill.evaluation.finetuning.sequences import Indices, StepOrder, encode, predict
from flashdistill.evaluation.finetuning.settings import TuningSettings
from flashdistill.training.loop import StepLoss


@dataclass(frozen=True)
class SentenceFeatures(Features):
    """One sequence for each row.

    Attributes:
        labels: [n]; None where they are not public.
    """

    labels: npt.NDArray[Any] | None


class _SentenceRecipe(TaskRecipe[SentenceFeatures]):
    """What classification and regression share: one output row for each row."""

    teacher_may_tokenise_otherwise = True

    def features(
        self, rows: Rows, task: Task, tokenizer: PreTrainedTokenizerFast, settings: TuningSettings
    ) -> SentenceFeatures:
        assert isinstance(rows, Sentences)
        return SentenceFeatures(encode(rows.texts, rows.pairs, tokenizer, settings.tokens), rows.labels)

    def loss(
        self,
        model: PreTrainedModel,
        features: SentenceFeatures,
        order: StepOrder,
        settings: TuningSettings,
        teacher: Outputs | None,
    ) -> StepLoss:
        assert features.labels is not None
        labels = features.labels.astype(self._label_type)
        return self._loss_class(model, features.sequences, order, labels, teacher, settings.distillation)

    def outputs(self, model: PreTrainedModel, features: SentenceFeatures, batch_size: int) -> Outputs:
        """Logits, [n, C]; of a regression the values, [n, 1]."""
        classes: Any = model.config.num_labels
        result = np.zeros((len(features), classes), dtype=np.float32)

        def keep(indices: Indices, outputs: Any) -> None:
            result[indices] = outputs.logits.float().cpu().numpy()

        predict(model, features.sequences, batch_size, keep)
        return result

    def scores(
        self, outputs: Outputs, features: SentenceFeatures, rows: Rows, task: Task, settings: TuningSettings
    ) -> dict[str, Measurement]:
        assert features.labels is not None
        if not np.isfinite(outputs).all():
            raise DivergedError(f"the model's predictions for {task.name} are not finite; lower the learning rate")
        predicted = self._predicted(outputs)
        return {name: measure(name, predicted, features.labels) for name in task.metrics}

    _label_type: type[np.generic]
    _loss_class: type[ClassificationLoss] | type[RegressionLoss]

    @abstractmethod
    def _predicted(self, outputs: Outputs) -> npt.NDArray[Any]:
        """Outputs [n, C] → predictions [n]."""


class ClassificationRecipe(_SentenceRecipe):
    """The class with the largest logit; cross-entropy."""

    _label_type = np.int64
    _loss_class = ClassificationLoss

    def _predicted(self, outputs: Outputs) -> npt.NDArray[Any]:
        return outputs.argmax(-1)


class RegressionRecipe(_SentenceRecipe):
    """One value; squared error."""

    _label_type = np.float32
    _loss_class = RegressionLoss

    def _predicted(self, outputs: Outputs) -> npt.NDArray[Any]:
        return outputs[:, 0]
