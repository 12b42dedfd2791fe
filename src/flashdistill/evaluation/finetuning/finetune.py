"""One model, one task, one seed: fine-tuned exactly resumably, and scored.

Shapes: n training sequences.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from flashdistill.core.errors import InputError
from flashdistill.core.files import atomic_path, content_key
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, Silent, tracked
from flashdistill.core.seeds import derive_seed
from flashdistill.data.tasks.task import Questions, Rows, Sentences, Task
from flashdistill.evaluation.finetuning.heads import TaskModel, load_for_task, task_class
from flashdistill.evaluation.finetuning.kinds import Features, Outputs, recipe_for
from flashdistill.evaluation.finetuning.metrics import TASK_METRICS, check_metrics
from flashdistill.evaluation.finetuning.sequences import StepOrder
from flashdistill.evaluation.finetuning.settings import TuningSettings
from flashdistill.evaluation.finetuning.sources import Located, ModelSource, locate_source, with_length
from flashdistill.evaluation.finetuning.teaching import EVALUATION_BATCH, locate_teacher, teacher_outputs
from flashdistill.models.delivered import quiet_loading
from flashdistill.training.checkpoint import CheckpointStore, Snapshot, module_tensors, restore_modules
from flashdistill.training.compute import Compute
from flashdistill.training.interrupt import postponed_stop
from flashdistill.training.loop import LossCurve, Phase, phase_steps
from flashdistill.training.optimizers import LinearSchedule, build_optimizer, require_optimizer

_FORMAT = 1
"""Raised when the same settings come to mean another training."""

CHECKPOINT_SECONDS = 60.0
CHECKPOINT_SECONDS_PER_PARAMETER = 1e-6
"""Between two checkpoints, at least: they must not take more time than they save."""

TEST = "test"
BEST = "best.safetensors"

Kept = Literal["last", "best"]
"""Which weights are the result: those of the last epoch, or the best by the selecting split."""

Scores = dict[str, dict[str, Measurement]]
"""By split, by metric."""


@dataclass(frozen=True)
class EpochScore:
    """The selecting metric on the selecting split after ``epoch`` epochs (of the steps so far)."""

    step: int
    epoch: float
    value: float


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model and what is known about it.

    Attributes:
        model: in evaluation mode.
        scores: on every evaluation split and, where its labels are public, on ``test``.
        epochs: how the selecting score developed.
        kept: the epoch whose weights these are.
        curve: of the training loss.
        seconds: of training and scoring, interruptions not counted.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    scores: Scores
    epochs: list[EpochScore]
    kept: EpochScore
    curve: LossCurve
    steps: int
    seconds: float

    def save(self, directory: Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and the tokenizer."""
        with quiet_loading():
            self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(str(directory))


def finetune(
    source: ModelSource | Located,
    task: Task,
    settings: TuningSettings,
    seed: int,
    work: Path,
    compute: Compute | None = None,
    progress: Progress | None = None,
    score: Kept = "last",
    cache: Path | None = None,
) -> Finetuned:
    """Fine-tune a model; what an earlier, interrupted call left in ``work`` is taken up exactly.

    The head's weights, the order of the rows and the dropout depend on ``seed`` alone.

    Args:
        work: for checkpoints; the caller removes it once the result is safe.
        cache: for what further fine-tunings share, the teacher's outputs; None: ``work``.

    Raises:
        InputError: the model, the task and the settings do not go together.
        DivergedError: the loss, the gradient or a prediction is not finite.
        KeyboardInterrupt: the process was asked to stop; a checkpoint has been written.
    """
    compute, progress = compute or Compute(), progress or Silent()
    located = source if isinstance(source, Located) else locate_source(source)
    teacher = check_together(located, task, settings)
    settings = with_length(settings, task.kind, located, teacher)
    loaded = load_for_task(located, task, seed, settings.dropout)
    recipe = recipe_for(task.kind)
    features = recipe.features(task.train, task, loaded.tokenizer, settings)
    taught = None
    if teacher is not None:
        taught = teacher_outputs(teacher, task, features, loaded.tokenizer, settings, cache or work, compute, progress)
    identity = content_key(_FORMAT, located.identity, task.identity, settings.model_dump(), seed, score, len(features))
    tuning = _Tuning(loaded, task, settings, seed, features, taught, work, identity, compute, progress, score)
    return tuning.run(f"{located.name} on {task.name}, seed {seed}")


def check_together(located: Located, task: Task, settings: TuningSettings) -> Located | None:
    """Find what is wrong with a model, a task and settings before any weight is loaded.

    Returns:
        The teacher; None where none is configured.

    Raises:
        InputError: says what to change.
    """
    check_task(task)
    with_length(settings, task.kind, located)
    require_optimizer(settings.optimizer)
    task_class(located.config, task.kind)
    teacher = locate_teacher(located, task, settings)
    with_length(settings, task.kind, teacher)
    return teacher


def check_task(task: Task) -> None:
    """Refuse a task that cannot be learnt or judged.

    Raises:
        InputError: names the task and the split.
    """
    check_metrics(task)
    if not task.evaluation:
        raise InputError(f"the task {task.name} has no validation rows: nothing could be judged")
    if task.kind == "classification" and len(task.labels) < 2:
        raise InputError(f"the task {task.name} has fewer than two classes: there is nothing to learn")
    expected = Questions if task.kind == "question-answering" else Sentences
    for split, rows in {"train": task.train, **task.evaluation}.items():
        if not isinstance(rows, expected):
            raise InputError(f"the task {task.name}: the rows of {split} do not suit {task.kind}")
        if len(rows) == 0:
            raise InputError(f"the task {task.name} has no rows in {split}")
        if isinstance(rows, Sentences):
            _check_labels(task, split, rows)


def _check_labels(task: Task, split: str, rows: Sentences) -> None:
    if rows.labels is None:
        raise InputError(f"the task {task.name}: the rows of {split} have no labels")
    if task.kind == "classification":
        if rows.labels.min() < 0 or rows.labels.max() >= len(task.labels):
            raise InputError(
                f"the task {task.name}: {split} has labels that are none of its {len(task.labels)} classes"
            )
    elif not np.isfinite(rows.labels).all():
        raise InputError(f"the task {task.name}: {split} has values that are not finite")


@dataclass
class _Tuning:
    """The state of one fine-tuning."""

    loaded: TaskModel
    task: Task
    settings: TuningSettings
    seed: int
    features: Features
    taught: Outputs | None
    work: Path
    identity: str
    compute: Compute
    progress: Progress
    score: Kept
    epochs: list[EpochScore] = field(default_factory=list)
    seconds_before: float = 0.0

    def __post_init__(self) -> None:
        self.recipe = recipe_for(self.task.kind)
        self.metric = self.task.metrics[0]
        self.order = StepOrder(
            len(self.features),
            min(self.settings.batch_size, len(self.features)),
            derive_seed(self.seed, "fine-tuning"),
        )
        self.steps = self.order.steps(self.settings.epochs)
        self.boundaries = {self.order.steps(n): float(n) for n in range(1, int(self.settings.epochs) + 1)}
        self.boundaries[self.steps] = self.settings.epochs

    def run(self, name: str) -> Finetuned:
        self.begin = time.perf_counter()
        selecting = self.task.selecting_split
        rows = self.task.evaluation[selecting]
        watched = self.recipe.features(rows, self.task, self.loaded.tokenizer, self.settings)
        with tracked(self.progress, name, self.steps):
            curve = self._train(name, watched)
        kept = self.epochs[-1]
        if self.score == "best":
            kept = self._best()
            self.compute.wait()
            restore_modules({"model": self.model}, load_file(self.work / BEST))
        self.model.eval()
        scores = {selecting: self._scores(rows, watched)}
        for split, others in self._further_splits().items():
            features = self.recipe.features(others, self.task, self.loaded.tokenizer, self.settings)
            scores[split] = self._scores(others, features)
        return Finetuned(
            self.model, self.loaded.tokenizer, scores, self.epochs, kept, curve, self.steps, self._seconds()
        )

    @property
    def model(self) -> Any:
        return self.loaded.model

    def _train(self, name: str, watched: Features) -> LossCurve:
        """Train to the end, looking at the selecting split after every epoch."""
        phase = self._phase(name)
        pause = max(CHECKPOINT_SECONDS, CHECKPOINT_SECONDS_PER_PARAMETER * self.model.num_parameters())
        store = CheckpointStore(self.work / "checkpoints", every_seconds=pause)
        resume = store.load_latest()
        if resume is not None and resume.position.get("identity") != self.identity:
            resume = None
        carried = Snapshot({}, {"identity": self.identity, "epochs": [], "seconds": 0.0})
        if resume is not None:
            self.epochs = [EpochScore(*entry) for entry in resume.position["epochs"]]
            self.seconds_before = resume.position["seconds"]
            restore_modules({"model": self.model}, resume.tensors)
        modules = {"model": self.model}
        self.model.to(self.compute.device).requires_grad_(True).train()
        with postponed_stop() as stop:
            running = phase_steps(phase, modules, self.compute, store, resume, self.progress, carried, stop)
            # A checkpoint may have been written at the very step, and the process killed before the look.
            done = int(resume.position["step"]) if resume else 0
            while True:
                if done in self.boundaries and done not in [score.step for score in self.epochs]:
                    self._look(done, watched)
                carried.position |= {"epochs": [_entry(score) for score in self.epochs], "seconds": self._seconds()}
                try:
                    done = next(running)
                except StopIteration as finished:
                    return finished.value

    def _phase(self, name: str) -> Phase:
        settings = self.settings
        loss = self.recipe.loss(self.model, self.features, self.order, settings, self.taught)
        parameters = list(self.model.parameters())
        optimizer = build_optimizer(settings.optimizer, parameters, settings.learning_rate, settings.weight_decay)
        schedule = LinearSchedule(self.steps, settings.learning_rate, int(self.steps * settings.warmup_fraction))
        return Phase("fine-tuning", loss, parameters, optimizer, schedule, settings.gradient_clip, name)

    def _look(self, step: int, watched: Features) -> None:
        """Score the selecting split, and keep the weights where they are the best so far."""
        split = self.task.selecting_split
        value = self._scores(self.task.evaluation[split], watched)[self.metric].value
        self.epochs.append(EpochScore(step, self.boundaries[step], value))
        if self.score == "best" and self._best() is self.epochs[-1] and self.compute.is_main:
            tensors = module_tensors({"model": self.model})
            with atomic_path(self.work / BEST) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)

    def _best(self) -> EpochScore:
        """The best epoch by the selecting split; of equals the first."""
        best = self.epochs[0]
        for score in self.epochs[1:]:
            if TASK_METRICS[self.metric].better(score.value, best.value):
                best = score
        return best

    def _scores(self, rows: Rows, features: Features) -> dict[str, Measurement]:
        """Computed by the main process, known to all."""
        scores = None
        if self.compute.is_main:
            with self.compute.arithmetic():
                outputs = self.recipe.outputs(self.model, features, EVALUATION_BATCH)
            scores = self.recipe.scores(outputs, features, rows, self.task, self.settings)
        return self.compute.from_main(scores)

    def _further_splits(self) -> Mapping[str, Rows]:
        splits = {name: rows for name, rows in self.task.evaluation.items() if name != self.task.selecting_split}
        test = self.task.test
        if test is not None and not (isinstance(test, Sentences) and test.labels is None):
            splits[TEST] = test
        return splits

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.begin


def _entry(score: EpochScore) -> list[float]:
    return [score.step, score.epoch, score.value]
