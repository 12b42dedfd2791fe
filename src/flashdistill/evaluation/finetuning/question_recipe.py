"""How extractive question answering is trained and judged: SQuAD v1.1, v2.0 and the user's own questions.

Shapes: Q questions, W windows, S tokens of the longest window.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from flashdistill.core.errors import DivergedError
from flashdistill.core.measurement import Measurement
from flashdistill.data.tasks.task import Question, Questions, Rows, Task
from flashdistill.evaluation.finetuning.kinds import Outputs, TaskRecipe
from flashdistill.evaluation.finetuning.metrics import measure
from flashdistill.evaluation.finetuning.question_answers import Prediction, predictions
from flashdistill.evaluation.finetuning.question_loss import NEVER, QuestionLoss
from flashdistill.evaluation.finetuning.question_metrics import AnswerScores, best_threshold
from flashdistill.evaluation.finetuning.question_windows import QuestionFeatures, question_features
from flashdistill.evaluation.finetuning.sequences import Indices, StepOrder, predict
from flashdistill.evaluation.finetuning.settings import TuningSettings
from flashdistill.training.loop import StepLoss

log = logging.getLogger(__name__)

NULL_THRESHOLD = 0.0
"""Of the null difference, where questions may have no answer: the likelier of the two is given."""


class QuestionRecipe(TaskRecipe[QuestionFeatures]):
    """Fine-tuning of a model's question-answering head, its start and end logits."""

    teacher_may_tokenise_otherwise = False

    def features(
        self, rows: Rows, task: Task, tokenizer: PreTrainedTokenizerFast, settings: TuningSettings
    ) -> QuestionFeatures:
        features = question_features(
            _questions(rows),
            tokenizer,
            max_length=settings.tokens,
            document_stride=settings.document_stride,
            max_query_length=settings.max_query_length,
        )
        if features.unreachable:
            log.warning(
                "%s: %d of %d answers are whole in no window and are not learnt; raise max_length or document_stride",
                task.name, features.unreachable, len(rows),
            )  # fmt: skip
        return features

    def loss(
        self,
        model: PreTrainedModel,
        features: QuestionFeatures,
        order: StepOrder,
        settings: TuningSettings,
        teacher: Outputs | None,
    ) -> StepLoss:
        return QuestionLoss(model, features, order, teacher, settings.distillation)

    def outputs(self, model: PreTrainedModel, features: QuestionFeatures, batch_size: int) -> Outputs:
        """Start and end logits, [W, 2, S]; padding has `NEVER`."""
        lengths = features.sequences.lengths
        logits = np.full((len(features), 2, int(lengths.max(initial=0))), NEVER, dtype=np.float32)

        def keep(windows: Indices, output: Any) -> None:
            longest = int(lengths[windows].max())
            padding = np.arange(longest) >= lengths[windows, None]
            for side, values in enumerate((output.start_logits, output.end_logits)):
                own = values[:, :longest].float().cpu().numpy()
                logits[windows, side, :longest] = np.where(padding, NEVER, own)

        predict(model, features.sequences, batch_size, keep)
        return logits

    def scores(
        self, outputs: Outputs, features: QuestionFeatures, rows: Rows, task: Task, settings: TuningSettings
    ) -> dict[str, Measurement]:
        """``answer_f1`` and ``exact_match``, in fractions, of the answers by `NULL_THRESHOLD`.

        Details say what each is over the answerable and over the unanswerable questions alone. On
        the selecting split of a task that has both, they add the best score that any threshold
        would give (``best``, optimistic, since the same rows choose it) and that threshold.
        """
        if not np.isfinite(outputs).all():
            raise DivergedError(f"the model's predictions for {task.name} are not finite; lower the learning rate")
        questions, threshold = _questions(rows), null_threshold(task)
        found = self.predictions(outputs, features, rows, settings)
        texts = [one.text(threshold) for one in found]
        selecting = rows is task.evaluation[task.selecting_split]
        result = {}
        for metric in task.metrics:
            details: dict[str, float | int] = {}
            if threshold is not None:
                details = AnswerScores.of(metric, texts, questions).breakdown | {"threshold": threshold}
                if selecting:
                    details |= _best(metric, found, questions)
            result[metric] = measure(metric, texts, questions, details)
        return result

    def predictions(
        self, outputs: Outputs, features: QuestionFeatures, rows: Rows, settings: TuningSettings
    ) -> list[Prediction]:
        """The n-best answers to every question, for `question_answers.write_predictions`."""
        return predictions(
            _questions(rows), outputs, features, n_best=settings.n_best, max_answer_length=settings.max_answer_length
        )


def null_threshold(task: Task) -> float | None:
    """The null difference above which no answer is given; None where every question has one."""
    return NULL_THRESHOLD if task.unanswerable else None


def _best(metric: str, found: Sequence[Prediction], questions: Sequence[Question]) -> dict[str, float]:
    answered = AnswerScores.of(metric, [one.best for one in found], questions).values
    refused = AnswerScores.of(metric, [""] * len(found), questions).values
    best = best_threshold(answered, refused, np.array([one.null_difference for one in found]))
    return {"best": best.score, "best_threshold": best.value}


def _questions(rows: Rows) -> list[Question]:
    assert isinstance(rows, Questions)
    return rows.rows
