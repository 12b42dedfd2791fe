"""The trainings of a run, as its workers do them: distil architectures side by side, score the students.

A worker has the text, the teacher and the checkpoints, and nothing of the study; what the search
knows that a judge needs travels with the request. What serves is the coordinator's business, which
gets the weights where it must measure or score what they become there.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import safetensors.torch
import torch
from transformers import MobileBertForPreTraining

from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import timed
from flashdistill.core.errors import InputError
from flashdistill.core.files import write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial, TrialState
from flashdistill.distillation.distill import Distilled
from flashdistill.distillation.inspection import StoppedEarlyError
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.execution.executor import Job, Outcome, WorkerLostError
from flashdistill.interim import InterimJudge
from flashdistill.models.students import build_student
from flashdistill.scoring import held_out_scores
from flashdistill.training.checkpoint import module_tensors, restore_modules
from flashdistill.workbench import Workbench

log = logging.getLogger(__name__)

PRELOAD = (
    __name__,
    "transformers.models.mobilebert.modeling_mobilebert",
    "transformers.models.bert.modeling_bert",
)
"""What a worker imports, which takes seconds; a worker process finds it imported."""


@dataclass(frozen=True)
class Training:
    """What a worker is asked for.

    Attributes:
        architectures: trained side by side, so that the teacher answers once for all of them.
        repeat: another number is another training seed.
        settings: for another budget than the two configured.
        candidates: the trials of the architectures with what is known of them, where they are looked at on the way.
        rivals: the trials that they then compete with; with none nobody is stopped.
        finished: score as after regular distillation.
        send_students: send the weights, too.
    """

    architectures: tuple[Architecture, ...]
    budget: str
    repeat: int = 0
    settings: DistillationSettings | None = None
    candidates: tuple[Trial, ...] = ()
    rivals: tuple[Trial, ...] = ()
    finished: bool = False
    send_students: bool = False

    @property
    def name(self) -> str:
        seeded = f" seed {self.repeat}" if self.repeat else ""
        return f"{self.budget}{seeded} {' '.join(map(str, self.architectures))}"

    def apart(self) -> list[Training]:
        """The same, one architecture at a time."""
        return [
            dataclasses.replace(self, architectures=(one,), candidates=self.candidates[place : place + 1])
            for place, one in enumerate(self.architectures)
        ]


@dataclass(frozen=True)
class Trained:
    """What became of one architecture.

    Attributes:
        state: complete, stopped or failed.
        reason: why it is not complete.
        scores: by metric, on held-out text; also values that are not finite.
        curve: by share of the pre-training steps, what was scored on the way.
        costs: seconds by phase.
        weights: of the student as safetensors, where they were asked for.
    """

    architecture: Architecture
    state: TrialState = TrialState.COMPLETE
    reason: str = ""
    scores: Mapping[str, Measurement] = field(default_factory=dict)
    curve: Mapping[float, Mapping[str, Measurement]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    weights: bytes = b""

    def student(self, bench: Workbench) -> MobileBertForPreTraining:
        """The student on the CPU, in evaluation mode."""
        student = build_student(self.architecture, bench.family, seed=0)
        restore_modules({"student": student}, safetensors.torch.load(self.weights))
        return student.requires_grad_(False).eval()


class Trainings:
    """Trainings of a run on its executor."""

    def __init__(self, bench: Workbench):
        self._bench = bench
        self._under_way: dict[str, tuple[Training, dict[Architecture, Trained]]] = {}
        self._parts: dict[str, str] = {}

    @property
    def free_places(self) -> int:
        """How many more trainings would run at once."""
        return self._bench.executor.places - len(self._under_way)

    def begin(self, training: Training) -> None:
        """Have it done; `ended` tells when it is."""
        self._under_way[training.name] = training, {}
        self._submit(training, training.name)

    def ended(self) -> tuple[Training, list[Trained]]:
        """Wait for one to end; what became of its architectures, in their order.

        Where several died with one process, each is trained again by itself, from its checkpoint:
        the fault of one is not the others'.

        Raises:
            InputError, OSError: the run cannot go on (a full disk, say); not the candidates' fault.
        """
        while True:
            outcome = self._bench.completed()
            name = self._parts.pop(outcome.job.name)
            training, found = self._under_way[name]
            if (
                isinstance(outcome.error, WorkerLostError)
                and outcome.job.name == name
                and len(training.architectures) > 1
            ):
                self._bench.progress.message(f"{name}: {outcome.error}; going on with one at a time")
                for part in training.apart():
                    self._submit(part, name)
                continue
            part = next((one for one in training.apart() if one.name == outcome.job.name), training)
            found |= {one.architecture: one for one in _results(part, outcome)}
            if len(found) == len(training.architectures):
                del self._under_way[name]
                return training, [found[architecture] for architecture in training.architectures]

    def all(self, trainings: Iterable[Training]) -> Iterator[tuple[Training, list[Trained]]]:
        """Several trainings as they end.

        The next is begun when there is a place for it and the caller asks for more: with one place
        one training after another, each with all that the caller does about it.
        """
        waiting = iter(trainings)
        while True:
            while self.free_places > 0 and (training := next(waiting, None)) is not None:
                self.begin(training)
            if not self._under_way:
                return
            yield self.ended()

    def _submit(self, training: Training, name: str) -> None:
        self._parts[training.name] = name
        together = self._bench.config.execution.processes_per_training if training.budget == "regular" else 1
        job: Job = self._bench.job(training.name, partial(train, training), together)
        self._bench.executor.submit(job)


def _results(training: Training, outcome: Outcome) -> list[Trained]:
    """What a job has sent, or that its failure is each architecture's."""
    if outcome.error is None:
        return outcome.value
    if isinstance(outcome.error, InputError | OSError):
        raise outcome.error
    reason = failure_reason(outcome.error)
    costs = {"distill": outcome.seconds / len(training.architectures)}
    return [Trained(one, TrialState.FAILED, reason, costs=costs) for one in training.architectures]


def train(training: Training, bench: Workbench) -> list[Trained]:
    """A worker's part: distil or resume the architectures, and score the students.

    Raises:
        InputError, OSError: the run cannot go on (a full disk, say); not the candidates' fault.
    """
    costs: list[dict[str, float]] = [{} for _ in training.architectures]
    judges = [
        InterimJudge(bench, candidate, candidate.measurements, training.rivals, cost)
        for candidate, cost in zip(training.candidates, costs, strict=False)
    ]
    results = _distil(bench, training, costs, judges)
    trained = []
    for place, (architecture, result) in enumerate(zip(training.architectures, results, strict=True)):
        curve = judges[place].curve if judges else {}
        ended = Trained(architecture, curve=curve, costs=costs[place])
        try:
            with timed(costs[place], "evaluate"):
                trained.append(_scored(bench, training, ended, result))
        except (InputError, OSError):
            raise
        except StoppedEarlyError as error:
            trained.append(dataclasses.replace(ended, state=TrialState.STOPPED, reason=str(error)))
        except Exception as error:
            trained.append(dataclasses.replace(ended, state=TrialState.FAILED, reason=failure_reason(error)))
            log.warning("candidate %s failed: %s", architecture, failure_reason(error), exc_info=error)
    return trained


def _distil(
    bench: Workbench, training: Training, costs: Sequence[dict[str, float]], judges: Sequence[InterimJudge]
) -> list[Distilled | Exception]:
    """The students, or why there are none; learning curves are kept, each has its share of the seconds."""
    spent: dict[str, float] = {}
    with timed(spent, "distill"):
        results = bench.distill(
            training.architectures, training.budget, judges or None, training.repeat, training.settings
        )
    # What judges have added for scoring on the way is not counted twice.
    seconds = spent["distill"] - sum(cost.get("evaluate", 0.0) for cost in costs)
    for architecture, result, cost in zip(training.architectures, results, costs, strict=True):
        cost["distill"] = seconds / len(training.architectures)
        if isinstance(result, Distilled):
            curves = {name: curve.points for name, curve in result.curves.items()}
            work = bench.work_directory(architecture, training.budget, training.repeat)
            write_json(work / "curves.json", curves)
    return results


def _scored(bench: Workbench, training: Training, ended: Trained, result: Distilled | Exception) -> Trained:
    if isinstance(result, Exception):
        raise result
    scores = held_out_scores(bench, result, finished=training.finished)
    weights = b""
    if training.send_students:
        tensors = module_tensors({"student": result.student})
        weights = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    return dataclasses.replace(ended, scores=scores, weights=weights)


def not_finite(measurements: Mapping[str, Measurement]) -> str:
    """Which measurements are not finite, as a reason of failure; empty where all are."""
    lost = sorted(name for name, measurement in measurements.items() if not measurement.finite)
    return f"diverged: {', '.join(lost)} not finite" if lost else ""


def failure_reason(error: Exception) -> str:
    """One line that says why a candidate failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    text = " ".join(str(error).split())
    if "can't allocate memory" in text:
        return "out of memory"
    known = type(error).__module__.startswith("flashdistill")
    return text if known else f"{type(error).__name__}: {text}"
