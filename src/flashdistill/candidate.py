"""The life of a candidate: measure, distil, evaluate, record.

Latency needs random weights only, so it is measured first: a candidate that breaks a constraint
costs no training, and one that falls behind in the middle of it may be stopped. Several
candidates may live side by side, so that the teacher answers once for all of them. A candidate's
failure is data; it is caught here and, for its training, in `trainings`, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from flashdistill.core.architecture import Architecture
from flashdistill.core.clock import timed
from flashdistill.core.errors import InputError
from flashdistill.core.measurement import Constraint, Measurement
from flashdistill.core.progress import tracked
from flashdistill.core.trial import Trial, TrialState
from flashdistill.exploration.constraints import violations
from flashdistill.scoring import as_served, served_otherwise
from flashdistill.trainings import Trained, Training, failure_reason, not_finite
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
    curve: Mapping[float, Mapping[str, Measurement]] = field(default_factory=dict)

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
            self.state, self.reason = TrialState.FAILED, failure_reason(error)
            log.warning("candidate %s failed: %s", self.architecture, self.reason, exc_info=error)

    def require(self, constraints: Sequence[Constraint], baseline: Mapping[str, float]) -> None:
        """Infeasible from here on if a measured value breaks a constraint."""
        values = {name: measurement.value for name, measurement in self.measurements.items()}
        if broken := violations(constraints, values, baseline):
            self.state, self.reason = TrialState.INFEASIBLE, "; ".join(broken)

    def recorded(self) -> Trial:
        """The trial as it ended; values that are not finite are left out."""
        if self.state is TrialState.COMPLETE and (lost := not_finite(self.measurements)):
            self.state, self.reason = TrialState.FAILED, lost
        return dataclasses.replace(
            self.trial,
            state=self.state,
            reason=self.reason,
            measurements={name: measurement for name, measurement in self.measurements.items() if measurement.finite},
            costs=self.costs,
            curve=self.curve,
        )


class Candidates:
    """Pending trials whose architectures are trained side by side, from their measurement to their record."""

    def __init__(
        self, bench: Workbench, pending: Sequence[Trial], baseline: Mapping[str, float], probes: Sequence[Trial] = ()
    ):
        """Measure them; those that break a constraint go no further.

        Args:
            baseline: the baseline's values by metric, for relative bounds; empty for the baseline
                itself (trial 0), which has no constraints to satisfy.
            probes: what was measured of architectures before; it is not measured again.

        Raises:
            InputError, OSError: the run cannot go on (a full disk, say); not the candidates' fault.
        """
        self._bench, self._baseline = bench, baseline
        self._constraints = bench.config.constraints if baseline else []
        self._all = [_Candidate(trial) for trial in pending]
        known = {probe.architecture: probe.measurements for probe in probes}
        for one in self._all:
            one.attempt(lambda one=one: _measure(bench, one, known))
            one.attempt(lambda one=one: one.require(self._constraints, baseline))
        self._going = [one for one in self._all if not one.reason]

    @property
    def numbers(self) -> set[int]:
        """Of the trials."""
        return {one.trial.number for one in self._all}

    def training(self, trials: Sequence[Trial]) -> Training | None:
        """What is to be trained, or continued where a killed process left it; None where nothing is left.

        Args:
            trials: of the study, with which they compete where the search stops candidates early.
        """
        if not self._going:
            return None
        looked_at = self._bench.config.search.early_stopping
        candidates = [dataclasses.replace(one.trial, measurements=one.measurements) for one in self._going]
        return Training(
            tuple(one.architecture for one in self._going),
            "flash",
            candidates=tuple(candidates) if looked_at else (),
            rivals=tuple(trials) if looked_at else (),
            send_students=bool(served_otherwise(self._bench)),
        )

    def take(self, trained: Sequence[Trained]) -> None:
        """What became of the training.

        Raises:
            InputError, OSError: the run cannot go on.
        """
        for candidate, result in zip(self._going, trained, strict=True):
            candidate.curve, candidate.state, candidate.reason = result.curve, result.state, result.reason
            for phase, seconds in result.costs.items():
                candidate.costs[phase] = candidate.costs.get(phase, 0.0) + seconds
            candidate.attempt(lambda one=candidate, result=result: _score(self._bench, one, result))
            candidate.attempt(lambda one=candidate: one.require(self._constraints, self._baseline))

    def recorded(self) -> list[Trial]:
        """The trials as complete, infeasible, stopped or failed, never pending."""
        return [one.recorded() for one in self._all]


def measure(bench: Workbench, architecture: Architecture, costs: MutableMapping[str, float]) -> dict[str, Measurement]:
    """What can be known of an architecture without training it, on every target.

    Raises:
        TargetError: a target cannot run it.
    """
    size = Measurement.of("num_parameters", bench.num_parameters(architecture))
    task = f"measure {architecture}"
    with timed(costs, "measure"), tracked(bench.progress, task):
        return {"num_parameters": size, **bench.at_targets(task, partial(_measured, architecture))}


def _measured(architecture: Architecture, bench: Workbench) -> dict[str, Measurement]:
    return bench.scales.measure(architecture)


def _measure(bench: Workbench, candidate: _Candidate, known: Mapping[Architecture, Mapping[str, Measurement]]) -> None:
    """A probe's measurement is taken over, a noisy one too, which no cache keeps."""
    probed = known.get(candidate.architecture)
    found = measure(bench, candidate.architecture, candidate.costs) if probed is None else probed
    candidate.measurements |= found


def _score(bench: Workbench, candidate: _Candidate, trained: Trained) -> None:
    candidate.measurements |= {**trained.scores, **scored_as_served(bench, trained, candidate.costs)}


def scored_as_served(bench: Workbench, trained: Trained, costs: MutableMapping[str, float]) -> dict[str, Measurement]:
    """`scoring.as_served` of a student that a worker has sent.

    Raises:
        TargetError: a target cannot serve the student.
    """
    if not served_otherwise(bench):
        return {}
    with timed(costs, "evaluate"):
        return bench.at_targets(f"score {trained.architecture} as served", partial(_as_served, trained))


def _as_served(trained: Trained, bench: Workbench) -> dict[str, Measurement]:
    return as_served(bench, trained.architecture, trained.student(bench))
