"""Distillations that are wanted for their scores alone, each kept in a file of its own.

A search trains what it proposes and a run delivers what it selects; audits and the paper's tables
train whatever they compare, under any budget and seed. Here a training is done once, whoever asks
for it: what has a file is not trained again, and a killed one goes on from its checkpoint. Students
of regular distillation keep their weights, because their tasks come later.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flashdistill.core.architecture import Architecture
from flashdistill.core.files import read_json, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.json_form import decode, encode
from flashdistill.distillation.inspection import SHARES
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.ledger import Ledger
from flashdistill.models.delivered import save_student
from flashdistill.trainings import Trained, Training, Trainings, not_finite
from flashdistill.workbench import Workbench

STUDENT = "student"
"""In the working directory of a regular distillation: its student, as `models.delivered` reads it."""


@dataclass(frozen=True)
class ScoredDistillation:
    """One training and its scores.

    Attributes:
        steps: optimiser steps of all phases.
        measurements: by metric, on the validation text; empty where it failed.
        curve: by share of the pre-training steps, what was scored on the way.
        costs: seconds by phase, ``distill`` the training itself.
        failure: why there are no scores; empty otherwise.
    """

    architecture: Architecture
    budget: str
    repeat: int
    steps: int
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    curve: Mapping[float, Mapping[str, Measurement]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def looked_at(self) -> bool:
        """Whether it was scored at every share on the way."""
        return set(SHARES) <= set(self.curve)


class ScoredDistillations:
    """The scored distillations of one run directory.

    Args:
        bench: with resolved budgets.
        charged_as: the phase under which their seconds are in the run's costs.
    """

    def __init__(self, bench: Workbench, ledger: Ledger, charged_as: str):
        self._bench, self._ledger, self._charged_as = bench, ledger, charged_as
        self._directory = bench.directory.path / "audit"

    def score(
        self,
        architectures: Sequence[Architecture],
        budget: str,
        *,
        repeat: int = 0,
        on_the_way: bool = False,
        with_weights: bool = False,
        settings: DistillationSettings | None = None,
    ) -> dict[Architecture, ScoredDistillation]:
        """Train what has not been trained yet, as many side by side and at a time as the search does.

        A failed one is not tried again.

        Args:
            budget: ``flash`` or ``regular``, or another name with its ``settings``.
            repeat: which training seed.
            on_the_way: score students in the middle of their flash distillation, too; without the
                scores on the way, one is trained again.
            with_weights: where a finished student's weights are gone, train it again.

        Raises:
            InputError, OSError: the run cannot go on (a full disk, say).
        """
        config = self._bench.config
        settings = settings or (config.flash if budget == "flash" else config.regular)
        known = {one: self.known(one, budget, repeat, settings) for one in architectures}
        missing = [
            architecture
            for architecture, found in known.items()
            if found is None
            or (on_the_way and not found.failure and not found.looked_at)
            or (with_weights and not found.failure and not self.student(architecture, repeat).is_dir())
        ]
        together = config.flash.students_per_teacher
        groups = [tuple(missing[first : first + together]) for first in range(0, len(missing), together)]
        # With no other trial to compete with, a judge scores on the way and stops nobody.
        trainings = [
            Training(
                group,
                budget,
                repeat,
                settings,
                candidates=tuple(Trial(0, one, TrialState.PENDING) for one in group) if on_the_way else (),
                finished=True,
                send_students=budget == "regular",
            )
            for group in groups
        ]
        for training, trained in Trainings(self._bench).all(trainings):
            for one in trained:
                known[one.architecture] = self._kept(training, one, settings)
        return {architecture: found for architecture, found in known.items() if found is not None}

    def known(
        self, architecture: Architecture, budget: str, repeat: int = 0, settings: DistillationSettings | None = None
    ) -> ScoredDistillation | None:
        """What was trained before, with as many steps as the settings have; None where nothing was."""
        path = self._file(architecture, budget, repeat)
        if not path.exists():
            return None
        found = decode(ScoredDistillation, read_json(path))
        return found if settings is None or found.steps == self._steps(architecture, settings) else None

    def student(self, architecture: Architecture, repeat: int = 0) -> Path:
        """Where the weights of a regular distillation are, once it has its scores."""
        return self._bench.work_directory(architecture, "regular", repeat) / STUDENT

    def architectures(self, budget: str) -> list[Architecture]:
        """Those that were trained under a budget with the first seed, in ascending order of the factors."""
        names = (path.name.removesuffix(f"-{budget}.json") for path in self._directory.glob(f"*-{budget}.json"))
        return sorted((Architecture.parse(name) for name in names), key=lambda one: one.values())

    def _kept(self, training: Training, trained: Trained, settings: DistillationSettings) -> ScoredDistillation:
        """What became of a training, in its file."""
        architecture, budget, repeat = trained.architecture, training.budget, training.repeat
        failure = trained.reason or not_finite(trained.scores)
        found = ScoredDistillation(
            architecture,
            budget,
            repeat,
            self._steps(architecture, settings),
            {} if failure else trained.scores,
            trained.curve,
            trained.costs,
            failure,
        )
        self._ledger.charge(trained.costs, self._charged_as)
        if trained.weights and not failure:
            self._keep_weights(trained, self.student(architecture, repeat))
        work = self._bench.work_directory(architecture, budget, repeat)
        shutil.rmtree(work / "checkpoints", ignore_errors=True)
        write_json(self._file(architecture, budget, repeat), encode(found))
        self._bench.progress.message(_described(found))
        return found

    def _keep_weights(self, trained: Trained, directory: Path) -> None:
        """Write the student so that ``directory`` is complete or absent."""
        begun = directory.with_name(f".{directory.name}.work")
        for leftover in (begun, directory):
            shutil.rmtree(leftover, ignore_errors=True)
        save_student(trained.student(self._bench), self._bench.prepared.tokenizer, begun)
        begun.rename(directory)

    def _steps(self, architecture: Architecture, settings: DistillationSettings) -> int:
        return settings.total_steps(self._bench.family.depth(architecture))

    def _file(self, architecture: Architecture, budget: str, repeat: int) -> Path:
        return self._directory / f"{architecture}-{budget}{f'-{repeat}' if repeat else ''}.json"


def _described(found: ScoredDistillation) -> str:
    seeded = f", seed {found.repeat}" if found.repeat else ""
    outcome = found.failure or f"mlm_accuracy {found.measurements['mlm_accuracy'].value:.2%}"
    return f"{found.architecture}, {found.budget}{seeded}: {outcome}"
