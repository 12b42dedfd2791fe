"""Models on the host that serves them: brought there, prepared by the runtime, run in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from flashdistill.core.errors import TargetError
from flashdistill.core.files import content_key
from flashdistill.core.registry import load
from flashdistill.hardware.artifacts import artifact_digest
from flashdistill.hardware.cache import serving_identity
from flashdistill.hardware.hosts import Host
from flashdistill.hardware.machine import Facts
from flashdistill.hardware.parity import Expected, check_parity
from flashdistill.hardware.runner_process import STEADY_MEMORY, RunnerProcess
from flashdistill.hardware.settings import TARGETS, TargetSettings
from flashdistill.hardware.targets.base import Inputs


@dataclass(frozen=True)
class ServedModel:
    """A model that a runner on the host can load.

    Attributes:
        sent: the path there of the model as it was exported.
        path: of what `Target.load` takes: the same, or what the runtime made of it.
        prepare_seconds: what the runtime needed for that.
    """

    sent: str
    path: str
    prepare_seconds: float

    @property
    def as_exported(self) -> bool:
        return self.path == self.sent


@dataclass(frozen=True)
class CheckedModel:
    """What running a model once has told.

    Attributes:
        description: of the target, see `Target.describe`.
        artifact_bytes: of what the runtime loaded.
        seconds: for all of the check, starting a process and loading included.
        parity_error: how far the answers are off; see `check_parity`.
    """

    description: dict[str, Any]
    peak_memory_bytes: int
    artifact_bytes: int
    load_seconds: float
    seconds: float
    parity_error: float

    @property
    def cpu_bound(self) -> bool:
        return bool(self.description["cpu_bound"])


@dataclass
class ModelServer:
    """Keeps the reference's model and the present candidate's on the host, and starts runners.

    Attributes:
        host: where the models are served.
        machine: the host's facts.
        cpus: those that runners are pinned to.
        logs: a local directory for the runners' logs.
        reference: the reference's exported model, and the target it is measured on.
    """

    host: Host
    machine: Facts
    cpus: list[int]
    logs: Path
    reference: tuple[Path, TargetSettings]
    _candidate: set[str] = field(default_factory=set)
    _ready: dict[str, ServedModel] = field(default_factory=dict)

    def make_ready(self, name: str, artifact: Path, settings: TargetSettings) -> ServedModel:
        """Bring a model to the host and let the runtime prepare it; what was done before is not done again.

        A candidate replaces the one before it; the reference stays.

        Raises:
            TargetError: the runtime cannot prepare it (the message begins with ``export:``) or is missing.
            RunnerDiedError: the runtime crashed, or the connection was lost.
        """
        sent, prepared = self._keys(artifact, settings)
        if prepared not in self._ready:
            self._make_room(sent, prepared)
            self._ready[prepared] = self._prepare(name, self.host.send(artifact, sent), prepared, settings)
        return self._ready[prepared]

    def runner(self, role: str, settings: TargetSettings, variables: Mapping[str, str] | None = None) -> RunnerProcess:
        """A new process on the host, on its way; see `RunnerProcess`."""
        return RunnerProcess(self.host, settings, self.cpus, self.logs, role, variables)

    def check(
        self, name: str, model: ServedModel, expected: Expected, settings: TargetSettings, *, trained: bool = False
    ) -> CheckedModel:
        """Load a model in a process of its own, compare its answers, note its memory.

        Args:
            trained: see `check_parity`.

        Raises:
            TargetError: the runtime refuses it or its answers are wrong (``export:``), or is missing.
            RunnerDiedError: its process ended.
        """
        start = time.monotonic()
        with self.runner("candidate", settings) as runner:
            runner.wait_until_ready()
            load_seconds, size = load_model(runner, name, model)
            try:
                outputs = runner.infer(expected.inputs)
            except TargetError as failure:
                raise TargetError(f"export: {name}: {failure}") from failure
            error = check_parity(name, outputs, expected.outputs, settings.precision, trained=trained)
            description = runner.statistics()
            peak = description.pop("peak_memory_bytes")
            return CheckedModel(description, peak, size, load_seconds, time.monotonic() - start, error)

    @contextmanager
    def pair(
        self, candidate_model: ServedModel, reference_model: ServedModel, inputs: Inputs, settings: TargetSettings
    ) -> Iterator[tuple[RunnerProcess, RunnerProcess]]:
        """The candidate and the reference in new processes, started and loaded side by side, ready to be timed."""

        def make_ready(runner: RunnerProcess, model: ServedModel) -> None:
            runner.wait_until_ready()
            runner.load(model.path)
            runner.infer(inputs)

        with (
            self.runner("candidate", settings, STEADY_MEMORY) as candidate,
            self.runner("reference", settings, STEADY_MEMORY) as reference,
            ThreadPoolExecutor(2) as side_by_side,
        ):
            models = (candidate_model, reference_model)
            list(side_by_side.map(make_ready, (candidate, reference), models))
            yield candidate, reference

    def forget_candidate(self) -> None:
        """Delete what is on the host, but for the reference, from which a resumed study goes on."""
        if self._ready:
            self.host.tidy(self._reference_keys)

    @cached_property
    def _reference_keys(self) -> set[str]:
        return set(self._keys(*self.reference))

    def _keys(self, artifact: Path, settings: TargetSettings) -> tuple[str, str]:
        """The names of a model, and of what the runtime makes of it, in the host's store."""
        sent = artifact_digest(artifact)
        return sent, content_key(sent, settings.identity(), serving_identity(self.machine, settings.runtime))

    def _make_room(self, sent: str, prepared: str) -> None:
        if sent not in self._candidate | self._reference_keys:
            self._candidate = {sent}
            self._ready = {key: model for key, model in self._ready.items() if key in self._reference_keys}
        self._candidate |= {prepared}
        self.host.tidy(self._reference_keys | self._candidate)

    def _prepare(self, name: str, sent: str, key: str, settings: TargetSettings) -> ServedModel:
        if not load(TARGETS, settings.runtime, "runtime").prepares(settings):
            return ServedModel(sent, sent, 0.0)
        with self.runner("preparation", settings) as runner:
            runner.wait_until_ready()
            try:
                path, seconds = runner.prepare(sent, self.host.store_path(key))
            except TargetError as failure:
                raise TargetError(f"export: {name}: {failure}") from failure
        return ServedModel(sent, path, seconds)


def load_model(runner: RunnerProcess, name: str, model: ServedModel) -> tuple[float, int]:
    """`RunnerProcess.load`; a refusal is a fault of the export."""
    try:
        return runner.load(model.path)
    except TargetError as failure:
        raise TargetError(f"export: {name}: {failure}") from failure
