"""What all candidates of a run work with: teacher, text, family, measuring session, workers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.core.files import content_key
from flashdistill.core.progress import Progress
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.seeds import derive_seed
from flashdistill.data.pretraining_data import PretrainingData
from flashdistill.data.token_cache import open_corpus
from flashdistill.data.tokenizer import load_tokenizer
from flashdistill.distillation.calibration import StepSeconds, time_steps
from flashdistill.distillation.distill import Distillation, Distilled
from flashdistill.distillation.inspection import Inspection, Judge
from flashdistill.distillation.layer_map import layer_map
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.distillation.side_by_side import distill_side_by_side
from flashdistill.distillation.signal_files import SignalFiles
from flashdistill.distillation.signals import GIB, TeacherSignals, signals_name
from flashdistill.distillation.teacher_preparation import PreparedTeacher
from flashdistill.distillation.teacher_sources import TeacherReport
from flashdistill.execution.executor import Executor, Job, Outcome, ServingExecutor, Worker
from flashdistill.execution.inprocess import InProcessExecutor
from flashdistill.models.foreign import load_config, load_masked_lm, locate
from flashdistill.models.parameter_count import count_parameters
from flashdistill.models.teacher import Teacher
from flashdistill.scales import Scales
from flashdistill.training.checkpoint import CheckpointStore
from flashdistill.training.compute import Compute, open_compute

Budget = Literal["flash", "regular"]


@dataclass(frozen=True)
class DistillJob:
    """What the main process asks the others to take part in: `Workbench.take_part`.

    Attributes:
        repeat: which training seed: 0 is the first, further ones confirm its result.
        inspected: whether the students are looked at on the way.
    """

    architectures: tuple[Architecture, ...]
    budget: str
    settings: DistillationSettings
    repeat: int = 0
    inspected: bool = False


@dataclass(frozen=True)
class TimingJob:
    """The same for `Workbench.time_steps`."""

    architecture: Architecture
    settings: DistillationSettings


@dataclass
class Workbench:
    """The live resources of a run. ``config`` is replaced once its step counts are resolved.

    The coordinator's has the run's executor and measures; a worker process opens one of its own
    (`Whereabouts`) and trains.
    """

    config: RunConfig
    directory: RunDirectory
    prepared: PreparedTeacher
    progress: Progress
    compute: Compute = field(default_factory=Compute)
    executor: Executor = field(default_factory=InProcessExecutor)
    scales: Scales = field(init=False)

    def __post_init__(self) -> None:
        tokenizer: Any = self.prepared.tokenizer
        self.family = self.config.student_family(len(tokenizer), tokenizer.pad_token_id)
        self.scales = Scales(self.config, self.family, self.directory.measurements, self.progress)
        self.pretraining_data = self._data("pretraining-data")
        self.stage_data = self._data("stage-data")
        if not self.executor.apart:  # otherwise it is needed where the workers are
            self.prepared.teacher.to(self.compute.device)
        self._signals: dict[tuple[str, int], TeacherSignals] = {}
        self._early: deque[Outcome] = deque()

    def num_parameters(self, architecture: Architecture) -> int:
        """Parameters of the encoder; pooler and heads are not counted."""
        return count_parameters(architecture, self.family)

    def job(self, name: str, work: Callable[[Workbench], Any], processes: int = 1) -> Job:
        """A job that needs a workbench: this one in this process, elsewhere one like it.

        Args:
            work: picklable, and so is what it returns; a partial of a module's function.
            processes: that train together where the executor can start several.
        """
        if self.executor.apart:
            there = self._whereabouts()
            return Job(name, partial(_work_there, there, work), (there.teacher, there.corpus), processes)
        return Job(name, partial(_work_here, self, work))

    def have_done(self, name: str, work: Callable[[Workbench], Any]) -> Any:
        """The result of a `job`, for which the caller waits; raises what the work raises."""
        job = self.job(name, work)
        self.executor.submit(job)
        while (outcome := self.executor.completed()).job is not job:
            self._early.append(outcome)
        return outcome.get()

    def completed(self) -> Outcome:
        """The next outcome of any other job."""
        return self._early.popleft() if self._early else self.executor.completed()

    def at_targets(self, name: str, work: Callable[[Workbench], Any], needs: tuple[Path, ...] = ()) -> Any:
        """Do work that measures or serves, where the targets are; its result, or raises what it raises.

        On this machine no training of this run disturbs it.

        Args:
            work: as for a `job`.
            needs: directories that it reads.
        """
        here = any(scale.settings.host is None for scale in self.scales.all)
        if here and isinstance(self.executor, ServingExecutor) and self.executor.serves:
            job = self.job(name, work)
            return self.executor.serve(replace(job, needs=(*job.needs, *needs))).get()
        with self.executor.paused() if here else nullcontext():
            return work(self)

    def distill(
        self,
        architectures: Sequence[Architecture],
        budget: str,
        judges: Sequence[Judge] | None = None,
        repeat: int = 0,
        settings: DistillationSettings | None = None,
    ) -> list[Distilled | Exception]:
        """Distil or resume architectures side by side; with several processes, together with the others.

        Args:
            budget: ``flash`` or ``regular``; another name needs ``settings``.
            judges: one per architecture, asked on the way whether to go on; None: nobody is asked.
            repeat: another number is another training seed.
            settings: resolved ones, for another budget than the two configured.

        Returns:
            Per architecture the student, or what stopped it.
        """
        settings = settings or (self.config.flash if budget == "flash" else self.config.regular)
        job = DistillJob(tuple(architectures), budget, settings, repeat, judges is not None)
        self.compute.from_main(job)
        return self.take_part(job, judges)

    def take_part(self, job: DistillJob, judges: Sequence[Judge] | None = None) -> list[Distilled | Exception]:
        """`distill` as every process does it."""
        task = {"flash": "distil {}", "regular": "regular distillation of {}"}.get(
            job.budget, f"distil {{}}, {job.budget}"
        )
        if job.repeat:
            task = f"confirm {{}} with seed {job.repeat}" if job.budget == "flash" else f"{task} with seed {job.repeat}"

        def build(index: int) -> Distillation:
            architecture = job.architectures[index]
            work = self.work_directory(architecture, job.budget, job.repeat)
            distillation = self.distillation(
                architecture, job.settings, work, task.format(architecture), repeat=job.repeat
            )
            if job.inspected:
                distillation.inspection = Inspection(judges[index] if judges else None)
            return distillation

        return distill_side_by_side([partial(build, index) for index in range(len(job.architectures))])

    def work_directory(self, architecture: Architecture, budget: str, repeat: int = 0) -> Path:
        """Where a distillation keeps its checkpoints and its learning curve."""
        seeded = f"confirm-{repeat}" if budget == "flash" else f"{budget}-{repeat}"
        return self.directory.candidate(architecture) / (seeded if repeat else budget)

    def time_steps(self, architecture: Architecture, settings: DistillationSettings) -> StepSeconds:
        """What steps of an architecture cost, where candidates are trained."""
        return self.have_done(f"calibrate {architecture}", partial(_timed, architecture, settings))

    def signals(self, settings: DistillationSettings) -> TeacherSignals:
        """The teacher's answers that a budget needs, shared by all candidates."""
        kept = self.config.signals
        share = kept.model_copy(update={"disk_gib": kept.disk_gib / self.compute.world_size})
        name, steps = signals_name(settings), self._most_pretraining_steps(settings)
        if (name, steps) not in self._signals:
            self._signals[name, steps] = TeacherSignals(
                self.prepared.teacher,
                self.stage_data,
                self.pretraining_data,
                settings.batch_size,
                share,
                settings.losses,
                self.directory.signals / name,
                self.prepared.identity,
                self._taught_blocks(),
                remember_step=self.config.flash.students_per_teacher > 1,
                pretraining_steps=steps,
            )
        return self._signals[name, steps]

    def teacher_features(self, number: int, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The teacher's feature maps at the masked tokens of a held-out batch, [M, H]; computed once a run."""
        return self._held_out.recall(f"held-out-{number}", ["features"], lambda: {"features": compute()})["features"]

    @cached_property
    def _held_out(self) -> SignalFiles:
        key = content_key(self.prepared.identity, self.pretraining_data.identity)
        return SignalFiles(self.directory.signals / "held-out", int(self.config.signals.disk_gib * GIB), key)

    def distillation(
        self,
        architecture: Architecture,
        settings: DistillationSettings,
        work: Path | None,
        task: str,
        repeat: int = 0,
    ) -> Distillation:
        """The distillation of an architecture, resumable in ``work``; with None it keeps nothing."""
        seed_of_repeat = ("repeat", repeat) if repeat else ()
        return Distillation(
            architecture,
            self.family,
            self.signals(settings),
            settings,
            derive_seed(self.config.seed, "student", architecture, *seed_of_repeat),
            self.compute,
            CheckpointStore(work / "checkpoints") if work else None,
            self.progress,
            task,
        )

    def follow(self) -> None:
        """In every process but the main one: take part in what it asks for, until it has finished.

        A distillation that fails does so in all processes alike; the main one reports it.
        """
        while (job := self.compute.from_main()) is not None:
            if isinstance(job, TimingJob):
                time_steps(self.distillation(job.architecture, job.settings, None, "calibrate"))
            else:
                self.take_part(job)

    def _most_pretraining_steps(self, settings: DistillationSettings) -> int:
        """Of the budgets that share these signals; 0 while they are not calibrated."""
        sharing = [
            one for one in (self.config.flash, self.config.regular) if signals_name(one) == signals_name(settings)
        ]
        return max((budget.pretraining_steps or 0 for budget in sharing), default=0)

    def _taught_blocks(self) -> list[int]:
        """The teacher's blocks that students of any depth in the space learn from."""
        depths = {*self.config.space.num_blocks, self.family.depth(self.config.baseline)}
        teacher_blocks = self.prepared.teacher.shape.num_blocks
        return sorted({block for depth in depths for block in layer_map(depth, teacher_blocks)})

    def _whereabouts(self) -> Whereabouts:
        prepared, teacher = self.prepared, self._teacher_directory.absolute()
        run, corpus = self.directory.path.absolute(), prepared.corpus.directory.absolute()
        # Elsewhere the working directory may be another one.
        config = self.config.model_copy(update={"output": run, "cache": self.config.cache_directory.absolute()})
        return Whereabouts(config, run, teacher, corpus, prepared.identity, prepared.report)

    @cached_property
    def _teacher_directory(self) -> Path:
        """Of the prepared teacher; of one that is used as it was given, where that is."""
        if self.prepared.directory is not None:
            return self.prepared.directory
        given = self.config.teacher.model
        assert given is not None, "a teacher that was trained here has a directory"
        return locate(given)

    def _data(self, stream: str) -> PretrainingData:
        return PretrainingData(
            self.prepared.corpus,
            self.prepared.tokenizer,
            self.config.corpus,
            derive_seed(self.config.seed, stream),
        )


@dataclass(frozen=True)
class Whereabouts:
    """Where another process finds what a workbench is made of; nothing is prepared a second time.

    Attributes:
        run, teacher, corpus: directories.
        identity: of teacher and text.
    """

    config: RunConfig
    run: Path
    teacher: Path
    corpus: Path
    identity: str
    report: TeacherReport

    @contextmanager
    def opened(self, worker: Worker) -> Iterator[Workbench]:
        """A workbench in this process, on a GPU of the worker's own where there are several.

        Of processes that train together each has one.
        """
        training = self.config.training
        together = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if training.device == "auto" and not together and torch.cuda.device_count() > 1:
            training = training.model_copy(update={"device": f"cuda:{worker.place % torch.cuda.device_count()}"})
        model, _ = load_masked_lm(self.teacher, load_config(self.teacher))
        prepared = PreparedTeacher(
            Teacher(model),
            load_tokenizer(self.teacher),
            open_corpus(self.corpus, self.config.corpus),
            self.identity,
            self.report,
            self.teacher,
        )
        bench = Workbench(self.config, RunDirectory(self.run), prepared, worker.progress, open_compute(training))
        try:
            yield bench
        finally:
            bench.scales.close()


def _work_here(bench: Workbench, work: Callable[[Workbench], Any], worker: Worker) -> Any:
    return work(bench)


def _work_there(whereabouts: Whereabouts, work: Callable[[Workbench], Any], worker: Worker) -> Any:
    """Of processes that train together the main one does the work, and the others what it asks for."""
    with whereabouts.opened(worker) as bench:
        if not bench.compute.is_main:
            return bench.follow()
        try:
            return work(bench)
        finally:
            bench.compute.from_main(None)


def _timed(architecture: Architecture, settings: DistillationSettings, bench: Workbench) -> StepSeconds:
    """With several processes, together with the others."""
    bench.compute.from_main(TimingJob(architecture, settings))
    return time_steps(bench.distillation(architecture, settings, None, "calibrate"))
