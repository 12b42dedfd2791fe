"""Training a teacher on masked words and, where it has a head for it, on next sentences.

Shapes: B sequences, S tokens, M masked tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from flashdistill.core.errors import TeacherError
from flashdistill.core.files import read_json, write_json
from flashdistill.core.progress import Progress, tracked
from flashdistill.data.batch import Batch
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.data.token_cache import TokenisedCorpus
from flashdistill.models.inputs import model_inputs
from flashdistill.models.settings import FitSettings, PretrainSettings
from flashdistill.models.single_blocks import accepted_inputs
from flashdistill.models.teacher import MaskedTokenHead, model_shape
from flashdistill.models.teacher_templates import PretrainingHeads, has_next_sentence_head
from flashdistill.training.checkpoint import CheckpointStore
from flashdistill.training.compute import Compute, Share
from flashdistill.training.current_step import CurrentStep
from flashdistill.training.loop import Phase, StepLoss, run_phase, seconds_per_step
from flashdistill.training.optimizers import LinearSchedule, build_optimizer

CHECKPOINT_SECONDS = 20.0
CHECKPOINT_SECONDS_PER_PARAMETER = 2e-6
"""Between two checkpoints, at least; of a large teacher, each is gigabytes: ten minutes for IB-BERT_LARGE."""

LEAST_STEPS = 10
"""Of a training whose budget is in seconds."""

Budget = FitSettings | PretrainSettings


class _Batches:
    """The shares of a step's batch, each assembled once though the loop asks for its sizes first."""

    def __init__(self, data: PretrainingData, batch_size: int):
        self._data, self._batch_size = data, batch_size
        self._current: CurrentStep[Batch] = CurrentStep()

    def share(self, step: int, share: Share) -> Batch:
        return self._current.get(
            step, share, lambda: self._data.batch(step, self._batch_size, share.index, share.count)
        )


class MaskedLMLoss(StepLoss):
    """Cross-entropy at masked tokens, for a model of any family in its masked-LM form."""

    def __init__(self, model: PreTrainedModel, data: PretrainingData, batch_size: int):
        super().__init__()
        self.batch_size = batch_size
        self._head = MaskedTokenHead(model)
        self._batches = _Batches(data, batch_size)

    def sizes(self, step: int, share: Share) -> tuple[float, ...]:
        return (len(self._batches.share(step, share).masked_labels),)

    def forward(self, step: int, share: Share, totals: Sequence[float]) -> torch.Tensor:
        batch = self._batches.share(step, share)
        device = self._head.model.device
        inputs = accepted_inputs(self._head.model.config, model_inputs(batch, device))
        logits = self._head(inputs, torch.from_numpy(batch.masked_positions).to(device))
        return _summed_cross_entropy(logits, batch.masked_labels) / totals[0]


class PretrainingLoss(StepLoss):
    """L_MLM + ``nsp`` · L_NSP, for a model of `models.teacher_templates` in its pre-training form."""

    def __init__(self, model: PreTrainedModel, data: PretrainingData, batch_size: int, nsp: float):
        super().__init__()
        self.batch_size = batch_size
        self._heads = PretrainingHeads(model)
        self._batches = _Batches(data, batch_size)
        self._nsp = nsp

    def sizes(self, step: int, share: Share) -> tuple[float, ...]:
        batch = self._batches.share(step, share)
        return len(batch.masked_labels), len(batch.next_sentence_labels)

    def forward(self, step: int, share: Share, totals: Sequence[float]) -> torch.Tensor:
        batch = self._batches.share(step, share)
        device = self._heads.model.device
        positions = torch.from_numpy(batch.masked_positions).to(device)
        mlm_logits, nsp_logits = self._heads(model_inputs(batch, device), positions)
        masked = _summed_cross_entropy(mlm_logits, batch.masked_labels) / totals[0]
        return masked + self._nsp * _summed_cross_entropy(nsp_logits, batch.next_sentence_labels) / totals[1]


def _summed_cross_entropy(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    return F.cross_entropy(logits, torch.from_numpy(labels).to(logits.device), reduction="sum")


@dataclass
class TeacherTraining:
    """The training of a teacher in place; it resumes from what it finds in ``work``.

    Dropout is off: most of these trainings are short and see no text twice.

    Attributes:
        model: in its masked-LM form, or in its pre-training form where it has a next-sentence head.
        task: under which the progress is shown.
    """

    model: PreTrainedModel
    data: PretrainingData
    budget: Budget
    work: Path
    task: str

    def run(self, compute: Compute, progress: Progress) -> int:
        """Train to the end; returns the number of steps of the whole training.

        Raises:
            DivergedError: the loss or the gradient is not finite.
            TeacherError: the body is to stay frozen, but the model has no head apart from it.
        """
        trained = trained_parameters(self.model, self.budget)
        self.model.eval().requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        steps = self.budget.steps or self._planned_steps(compute)
        phase = self._phase(self.model, steps)
        pause = max(CHECKPOINT_SECONDS, CHECKPOINT_SECONDS_PER_PARAMETER * self.model.num_parameters())
        store = CheckpointStore(self.work / "checkpoints", every_seconds=pause)
        with tracked(progress, self.task, steps):
            run_phase(phase, {"model": self.model}, compute, store, store.load_latest(), progress)
        return steps

    def _phase(self, model: PreTrainedModel, steps: int) -> Phase:
        budget = self.budget
        if isinstance(budget, PretrainSettings) and has_next_sentence_head(model):
            loss: StepLoss = PretrainingLoss(model, self.data, budget.batch_size, budget.nsp)
        else:
            loss = MaskedLMLoss(model, self.data, budget.batch_size)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = build_optimizer(budget.optimizer, parameters, budget.learning_rate, budget.weight_decay)
        schedule = LinearSchedule(steps, budget.learning_rate, int(steps * budget.warmup_fraction))
        return Phase("masked LM", loss, parameters, optimizer, schedule, budget.gradient_clip, self.task)

    def _planned_steps(self, compute: Compute) -> int:
        """Steps that fit the seconds, timed on a throw-away copy; kept, so that a resumed training agrees."""
        plan = self.work / "plan.json"
        if (planned := compute.from_main(read_json(plan) if plan.exists() else None)) is not None:
            return int(planned["steps"])
        assert self.budget.seconds is not None
        phase = self._phase(copy.deepcopy(self.model), steps=1000)
        phase.loss.to(compute.device)
        seconds = compute.from_main(seconds_per_step(lambda step: phase.time_step(step, compute), repeats=5, discard=2))
        steps = max(LEAST_STEPS, round(self.budget.seconds / seconds))
        if compute.is_main:
            write_json(plan, {"steps": steps, "seconds_per_step": seconds})
        return steps


def trained_parameters(model: PreTrainedModel, budget: Budget) -> list[nn.Parameter]:
    """What a budget trains: every weight, or the head's own where the body is to stay frozen.

    A decoder that is tied to the embedding table belongs to the body.

    Raises:
        TeacherError: the model has no head apart from its body.
    """
    frozen: set[int] = set()
    if isinstance(budget, FitSettings) and budget.freeze_body:
        frozen = {id(parameter) for parameter in model.base_model.parameters()}
    parameters = [parameter for parameter in model.parameters() if id(parameter) not in frozen]
    if not parameters:
        raise TeacherError(
            f"teacher.fit_mlm_head.freeze_body: a {model.config.model_type} model has no weights besides its body; "
            "set it to false"
        )
    return parameters


def token_counts(corpus: TokenisedCorpus, vocab_size: int) -> np.ndarray:
    """How often each vocabulary entry occurs in (the first ten million tokens of) the corpus, [V]."""
    return np.bincount(np.asarray(corpus.tokens[:10_000_000]), minlength=vocab_size)


@torch.no_grad()
def begin_head(model: PreTrainedModel, counts: np.ndarray) -> None:
    """Start a new masked-LM head at the unigram distribution with an identity transform.

    A random head spends its first hundreds of steps on finding just that.

    Args:
        counts: [V], occurrences of each vocabulary entry.
    """
    output = model.get_output_embeddings()
    if output is not None and getattr(output, "bias", None) is not None:
        frequencies = torch.from_numpy(counts + 1.0)
        output.bias.copy_((frequencies / frequencies.sum()).log().to(output.bias.dtype))
    body = {id(module) for module in model.base_model.modules()}
    width = model_shape(model.config).hidden_size
    for module in model.modules():
        if id(module) not in body and isinstance(module, nn.Linear) and module.weight.shape == (width, width):
            nn.init.eye_(module.weight)
            nn.init.zeros_(module.bias)
