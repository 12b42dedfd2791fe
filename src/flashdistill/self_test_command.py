"""``flashdistill measure --self-test``: the tests of `flashdistill.hardware.self_test` on the configured target."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import InputError
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress
from flashdistill.core.registry import load
from flashdistill.core.seeds import derive_seed, generator
from flashdistill.delivery.export import exported_encoder
from flashdistill.exploration.space import DesignSpace
from flashdistill.hardware.parity import Expected, example_inputs
from flashdistill.hardware.self_test import (
    CANDIDATE_REPEATS,
    REFERENCE_REPEATS,
    Measure,
    Repeated,
    self_test,
)
from flashdistill.hardware.self_test_result import MIN_TAU, SelfTest
from flashdistill.hardware.serving import ModelServer, ServedModel
from flashdistill.hardware.session import MeasurementSession
from flashdistill.hardware.settings import TARGETS, TargetSettings
from flashdistill.hardware.targets.base import Inputs
from flashdistill.preflight import quiet_libraries

RANKED = 20
"""Architectures in the rank test."""

REPETITIONS = 8
"""Measurements of the null test."""


def paper_defaults() -> RunConfig:
    """The paper's space and baseline on the default target.

    A configuration needs a teacher, text and budgets too; measuring never looks at them.
    """
    unused = {"teacher": {"model": "none"}, "corpus": {"source": {"files": "none"}}}
    budgets = {"flash": {"seconds": 1}, "regular": {"seconds": 1}}
    return RunConfig.model_validate({"name": "self-test", "baseline": "512_128_4_512_4", **unused, **budgets})


def run_self_test(config: RunConfig, progress: Progress) -> SelfTest:
    """Test the measurements on the target of a configuration, with its space and its baseline.

    Nothing is recalled from earlier measurements, and none is kept.

    Raises:
        InputError: the space has but one architecture.
        TargetError: the target cannot run a model.
    """
    quiet_libraries()
    family = config.student_family(config.expected_vocab_size[0])
    architectures = spread(DesignSpace(config.space, family), RANKED)
    with tempfile.TemporaryDirectory(prefix="flashdistill-self-test-") as work, ExitStack() as sessions:
        bench = _TargetBench(config, family, architectures, Path(work), progress, sessions)
        settings = config.target.model_dump(mode="json")
        tolerance = config.target.measurement.final_tolerance
        return self_test(bench, settings, tolerance, progress, repetitions=REPETITIONS)


def spread(space: DesignSpace, count: int) -> list[Architecture]:
    """Up to ``count`` architectures of evenly distributed sizes, the same ones every time.

    One is drawn from each of ``count`` equal parts of the space in the order of its parameter counts.
    A space too large for that is sampled twenty times more densely first.

    Raises:
        InputError: there is nothing to rank.
    """
    random = generator("self-test-architectures")
    members = list(space.table) if space.enumerable else space.sample(20 * count, random)
    if len(members) < 2:
        raise InputError("the design space has a single architecture, so there is no ranking to test; widen space")
    sizes = space.parameters(members)
    parts = np.array_split(np.argsort(sizes, kind="stable"), min(count, len(members)))
    return [members[int(random.choice(part))] for part in parts]


@dataclass
class _TargetBench:
    """Implements `self_test.Bench`: every measurement in a session of its own, or of its ranking pass."""

    config: RunConfig
    family: StudentFamily
    architectures: list[Architecture]
    work: Path
    progress: Progress
    sessions: ExitStack

    def __post_init__(self) -> None:
        self._model = cache(self._export)
        self._watch = self.sessions.enter_context(self._session("watch"))

    @property
    def names(self) -> list[str]:
        return [str(architecture) for architecture in self.architectures]

    def null(self, repetition: int) -> Measurement:
        return self._baseline(self._session(f"null-{repetition}"))

    def known_ratio(self) -> Measurement:
        return self._baseline(self._session("known-ratio", _KnownRatioSession))

    @contextmanager
    def ranking_pass(self, repetition: int) -> Iterator[Measure]:
        with self._session(f"ranking-{repetition}") as session:

            def measure(name: str) -> Measurement:
                return session.measure(name, *self._model(Architecture.parse(name)))["latency_ms"]

            yield measure

    def is_busy(self) -> bool:
        return self._watch.host.is_busy()

    def _baseline(self, session: MeasurementSession) -> Measurement:
        with session:
            name, model = str(self.config.baseline), self._model(self.config.baseline)
            return session.measure(name, *model, final=True)["latency_ms"]

    def _session(self, name: str, kind: type[MeasurementSession] = MeasurementSession) -> MeasurementSession:
        reference, _ = self._model(self.config.baseline)
        seed = derive_seed("self-test", name)
        return kind(self.config.target, reference, self.work / name, seed, progress=self.progress)

    def _export(self, architecture: Architecture) -> tuple[Path, Expected]:
        target: TargetSettings = self.config.target
        wanted = load(TARGETS, target.runtime, "runtime").artifact
        path, expected = exported_encoder(architecture, self.family, self.config.cache_directory, wanted)
        return path, expected(example_inputs(target, self.family.vocab_size, seed=0))


class _RepeatingServer(ModelServer):
    """Starts pairs whose calls are several inferences."""

    @contextmanager
    def pair(  # type: ignore[override]
        self, candidate_model: ServedModel, reference_model: ServedModel, inputs: Inputs, settings: TargetSettings
    ) -> Iterator[tuple[Repeated, Repeated]]:
        with super().pair(candidate_model, reference_model, inputs, settings) as (candidate, reference):
            yield Repeated(candidate, CANDIDATE_REPEATS), Repeated(reference, REFERENCE_REPEATS)


class _KnownRatioSession(MeasurementSession):
    """The whole of a measurement, with calls that differ by a known factor."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._models = _RepeatingServer(**{one.name: getattr(self._models, one.name) for one in fields(self._models)})


def self_test_text(result: SelfTest) -> str:
    """The outcome for people: a line per test, what stands behind it, and what to do."""
    null, known, rank, load = result.null, result.known_ratio, result.rank, result.load
    ratio, (low, high) = known.measured, rank.interval
    worst, factor = rank.largest_disagreement
    tests: dict[str, tuple[bool, list[str]]] = {
        "null test": (
            null.passed,
            [
                f"ratios of a model to itself scatter by {null.cv:.2%} (at most {null.max_cv:.1%})",
                f"{null.covering} of {len(null.ratios)} intervals cover 1 (at least {null.least_covering})",
            ],
        ),
        "known ratio": (
            known.passed,
            [f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] where it is {known.expected} by construction"],
        ),
        "ranking": (
            rank.passed,
            [
                f"Kendall's tau {rank.tau:.3f} [{low:.3f}, {high:.3f}] of two passes (at least {MIN_TAU})",
                f"{rank.swapped_pairs} pairs of {len(rank.names)} architectures swapped",
                f"least agreed on {worst}: {factor - 1:+.1%}",
            ],
        ),
    }
    lines = []
    for name, (passed, (first, *others)) in tests.items():
        lines.append(f"{name:<11}  {'passed' if passed else 'FAILED'}  {first}")
        lines += [" " * 21 + other for other in others]
    mood = "loaded" if load.loaded else "quiet"
    lines += ["", f"The machine was {mood} (busy in {load.busy_share:.0%} of the looks); {result.seconds:.0f} seconds."]
    return "\n".join([*lines, *_advice(result)])


def _advice(result: SelfTest) -> list[str]:
    if result.passed:
        return ["Measurements on this target can be believed."]
    found = []
    if result.load.loaded:
        found.append("Stop what else runs on the machine and test again.")
    else:
        if not result.null.passed:
            found.append("Narrow target.measurement.final_tolerance and raise final_seconds, then test again.")
        if not result.rank.passed:
            found.append("Narrow target.measurement.tolerance and raise seconds, then test again.")
    if not result.null.covers_1:
        found.append("The intervals promise too much: something changes between measurements, such as the clock rate.")
    if not result.known_ratio.passed:
        found.append("Latency is not proportional to work: look for a clock rate or a quota that depends on load.")
    if not result.rank.passed:
        found.append("Differences between architectures are smaller than what measurements can tell apart.")
    return found
