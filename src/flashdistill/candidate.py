"""The life of a candidate: measure, distil, evaluate, record.

Latency needs random weights only, so it is measured first: a candidate that breaks a constraint
costs no training, and one that falls behind in the middle of it may be stopped. Several
candidates may live side by side, so that the teacher answers once for all of them. A candidate's
failure is data; it is caught here, once, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import torch

from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import timed
from flashdistill.core.errors import InputError
from flashdistill.core.files import write_json
from flashdistill.core.measurement import Constraint, Measurement
from flashdistill.core.progress import tracked
from flashdistill.core.trial import Trial, TrialState
from flashdistill.distillation.distill import Distilled
from flashdistill.distillation.inspection import StoppedEarlyError
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.exploration.constraints import violations
from flashdistill.interim import InterimJudge
from flashdistill.scoring import evaluate
from flashdistill.workbench import Workbench

log = logging.getLogger(__name__)


@dataclass
class _Candidate:
    """A trial on its way. Once it has a reason it goes no further."""

    trial: Trial
    state: TrialState = TrialState.COMPLETE
    reason: str = ""
    measurements: dict[str, Measurement] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    judge: InterimJudge | None = None

    @property
    def architecture(self) -> Architecture:
        return self.trial.architecture

    def attempt(self, work: Callable[[], None]) -> None:
        """Do a part of the candidate's life; its failure is the candidate's.

        Raises:
            InputError, OSError: the run cannot go on (a full disk, say).
        """
        if self.reason:
            return
        try:
            work()
        except (InputError, OSError):
            raise
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        if isinstance(error, StoppedEarlyError):
            self.state, self.reason = TrialState.STOPPED, str(error)
            return
        self.state, self.reason = TrialState.FAILED, failure_reason(error)
        log.warning("candidate %s failed: %s", self.architecture, self.reason, exc_info=error)

    def require(self, constraints: Sequence[Constraint], baseline: Mapping[str, float]) -> None:
        """Infeasible from here on if a measured value breaks a constraint."""
        values = {name: measurement.value for name, measurement in self.measurements.items()}
        if broken := violations(constraints, values, baseline):
            self.state, self.reason = TrialState.INFEASIBLE, "; ".join(broken)

    def recorded(self) -> Trial:
        """The trial as it ended; values that are not finite are left out."""
        finite = {name: measurement for name, measurement in self.measurements.items() if measurement.finite}
        if self.state is TrialState.COMPLETE and len(finite) < len(self.measurements):
            lost = ", ".join(sorted(set(self.measurements) - set(finite)))
            self.state, self.reason = TrialState.FAILED, f"diverged: {lost} not finite"
        return dataclasses.replace(
            self.trial,
            state=self.state,
            reason=self.reason,
            measurements=finite,
            costs=self.costs,
            curve=self.judge.curve if self.judge else {},
        )


def run_candidates(
    bench: Workbench,
    pending: Sequence[Trial],
    baseline: Mapping[str, float],
    trials: Sequence[Trial] = (),
    probes: Sequence[Trial] = (),
) -> list[Trial]:
    """Work on pending trials to their end, or continue where a killed process left them.

    Args:
        baseline: the baseline's values by metric, for relative bounds; empty for the baseline
            itself (trial 0), which has no constraints to satisfy.
        trials: of the study, with which candidates compete when the search stops them early.
        probes: what was measured of architectures before; it is not measured again.

    Returns:
        The trials as complete, infeasible, stopped or failed, never pending.

    Raises:
        InputError, OSError: the run cannot go on (a full disk, say); not the candidates' fault.
    """
    constraints = bench.config.constraints if baseline else []
    candidates = [_Candidate(trial) for trial in pending]
    known = {probe.architecture: probe.measurements for probe in probes}
    for candidate in candidates:
        candidate.attempt(lambda one=candidate: _measure(bench, one, known))
        candidate.attempt(lambda one=candidate: one.require(constraints, baseline))
    going = [candidate for candidate in candidates if not candidate.reason]
    results = _distil(bench, going, trials)
    for candidate, result in zip(going, results, strict=True):
        if isinstance(result, Exception):
            candidate.fail(result)
            continue
        candidate.attempt(lambda one=candidate, student=result: _evaluate(bench, one, student))
        candidate.attempt(lambda one=candidate: one.require(constraints, baseline))
    return [candidate.recorded() for candidate in candidates]


def _distil(bench: Workbench, candidates: Sequence[_Candidate], trials: Sequence[Trial]) -> list[Distilled | Exception]:
    """Flash distillation of candidates, with a judge for each where the search stops them early."""
    judges = None
    if bench.config.search.early_stopping:
        judges = [InterimJudge(bench, one.trial, one.measurements, trials, one.costs) for one in candidates]
        for candidate, judge in zip(candidates, judges, strict=True):
            candidate.judge = judge
    architectures, costs = [one.architecture for one in candidates], [one.costs for one in candidates]
    return distil(bench, architectures, "flash", costs, judges)


def measure(bench: Workbench, architecture: Architecture, costs: MutableMapping[str, float]) -> dict[str, Measurement]:
    """What can be known of an architecture without training it, on every target.

    Raises:
        TargetError: a target cannot run it.
    """
    size = Measurement.of("num_parameters", bench.num_parameters(architecture))
    with timed(costs, "measure"), tracked(bench.progress, f"measure {architecture}"):
        return {"num_parameters": size, **bench.scales.measure(architecture)}


def _measure(bench: Workbench, candidate: _Candidate, known: Mapping[Architecture, Mapping[str, Measurement]]) -> None:
    """A probe's measurement is taken over, a noisy one too, which no cache keeps."""
    probed = known.get(candidate.architecture)
    found = measure(bench, candidate.architecture, candidate.costs) if probed is None else probed
    candidate.measurements |= found


def _evaluate(bench: Workbench, candidate: _Candidate, distilled: Distilled) -> None:
    with timed(candidate.costs, "evaluate"):
        candidate.measurements |= evaluate(bench, candidate.architecture, distilled)


def distil(
    bench: Workbench,
    architectures: Sequence[Architecture],
    budget: str,
    costs: Sequence[dict[str, float]],
    judges: Sequence[InterimJudge] | None = None,
    repeat: int = 0,
    settings: DistillationSettings | None = None,
) -> list[Distilled | Exception]:
    """Distil architectures side by side under a budget; keeps their learning curves.

    Args:
        costs: per architecture, where its share of the time is added; what its judge has added
            for scoring it on the way is not counted twice.
        judges: per architecture, who may stop it early.
        repeat: another number is another training seed.
        settings: for another budget than the two configured.

    Returns:
        Per architecture the student, or why it failed.
    """
    if not architectures:
        return []
    spent: dict[str, float] = {}
    with timed(spent, "distill"):
        results = bench.distill(architectures, budget, judges, repeat, settings)
    training = spent["distill"] - sum(cost.get("evaluate", 0.0) for cost in costs)
    for architecture, result, cost in zip(architectures, results, costs, strict=True):
        cost["distill"] = training / len(architectures)
        if isinstance(result, Distilled):
            curves = {name: curve.points for name, curve in result.curves.items()}
            write_json(bench.work_directory(architecture, budget, repeat) / "curves.json", curves)
    return results


def failure_reason(error: Exception) -> str:
    """One line that says why a candidate failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    text = " ".join(str(error).split())
    if "can't allocate memory" in text:
        return "out of memory"
    known = type(error).__module__.startswith("flashdistill")
    return text if known else f"{type(error).__name__}: {text}"
