"""The study: the one owner of all trials, kept in an Optuna storage.

Optuna stores and shows the trials (``optuna-dashboard`` works on the same database); proposing
architectures is the business of `flashdistill.exploration.algorithms`. One coordinator per run
writes to a study.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from flashdistill.core.architecture import FACTORS, Architecture
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.measurement import Constraint, Goal, Measurement, Objective
from flashdistill.core.trial import Trial, TrialState
from flashdistill.core.trust import without_password
from flashdistill.exploration.constraints import excess
from flashdistill.exploration.ownership import Owner, require_owner
from flashdistill.exploration.records import decode_measurements, encode_measurements, refuse_non_finite
from flashdistill.exploration.storage import (
    as_user_errors,
    check_before_opening,
    close_storage,
    open_storage,
    opening_alone,
    outlasting,
)

_Result = TypeVar("_Result")

_TO_OPTUNA = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.INFEASIBLE: OptunaState.PRUNED,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}

# What a trial keeps in Optuna's user attributes; the architecture is there for people.
_ARCHITECTURE = "architecture"
_STATE, _REASON, _MEASUREMENTS, _COSTS = "state", "reason", "measurements", "costs"
_CURVE, _CONFIRMATIONS = "curve", "confirmations"

_PROBE = "probe:"
"""Begins the study's attributes that hold an architecture's measurements before any trial of it."""

# Where Optuna's own samplers put constraint values; the dashboard reads them there.
_CONSTRAINTS = "constraints"


PROBE_NUMBER = -1
"""The number of what is no trial: latency probes."""


class Study:
    """The trials of one run.

    A trial is started (pending), then finished (complete, infeasible or failed). What a killed
    process left unfinished is pending still, under its number, so a resumed run takes it up
    again: no trial is lost or counted twice. The same holds where a database server restarts in
    the middle: every operation is repeated until it is done, and looks first whether it is.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        url: str,
        objectives: Sequence[Objective],
        factors: Mapping[str, Sequence[int]],
        constraints: Sequence[Constraint],
    ):
        """Use `Study.open`."""
        self.name = study.study_name
        self.url = url
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self._factors = factors
        self._study = study
        self._storage = storage

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        objectives: Sequence[Objective],
        factors: Mapping[str, Sequence[int]],
        constraints: Sequence[Constraint] = (),
        expected_trials: int = 0,
        owner: Owner | None = None,
    ) -> Study:
        """Open the study, or create it where there is none yet.

        Args:
            url: an Optuna storage, for example ``sqlite:////path/to/study.db``.
            name: the study's name within the storage.
            factors: the choices by factor (`DesignSpace.factors`), shown as the parameters' ranges.
            constraints: shown with each trial; the caller decides what is infeasible.
            expected_trials: how many trials this run is known to have started; with any, a study
                that is missing or has fewer is an error instead of an empty study.
            owner: the run that the study is or becomes the property of; None: nobody asks.

        Raises:
            RunDirectoryError: the database is missing, damaged, out of reach or shorter than
                expected, or belongs to a search for other objectives or to another run.
        """
        check_before_opening(url, expected_trials)
        with contextlib.ExitStack() as undo, as_user_errors(url), _quiet(), opening_alone(url):
            storage = open_storage(url)
            undo.callback(close_storage, storage)
            study = _load_or_create(storage, url, name, objectives, expected_trials)
            if owner is not None:
                require_owner(study, owner, without_password(url))
            count = len(study.get_trials(deepcopy=False))
            if count < expected_trials:
                raise RunDirectoryError(
                    f"study {name!r} in {without_password(url)} has {count} trials, but this run has started "
                    f"{expected_trials}: the database was cut or replaced; restore it from a backup, "
                    "or start again in a new output directory"
                )
            undo.pop_all()
        return cls(study, storage, url, objectives, factors, constraints)

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers; unfinished ones are pending."""
        attributes, stored = self._outlasting(lambda: (self._study.user_attrs, self._stored()))
        return [self._trial(one, attributes.get(f"{_CONFIRMATIONS}:{one.number}", ())) for one in stored]

    def probes(self) -> list[Trial]:
        """What was measured before the search without being trained, in ascending order of the factors."""
        probes = [
            Trial(
                number=PROBE_NUMBER,
                architecture=Architecture.parse(name.removeprefix(_PROBE)),
                state=TrialState.MEASURED,
                measurements=decode_measurements(measurements),
            )
            for name, measurements in self._outlasting(lambda: self._study.user_attrs).items()
            if name.startswith(_PROBE)
        ]
        return sorted(probes, key=lambda probe: probe.architecture.values())

    def add_probe(self, architecture: Architecture, measurements: Mapping[str, Measurement]) -> None:
        """Record what was measured of an architecture that nobody has trained.

        Raises:
            ValueError: a value is not finite.
        """
        refuse_non_finite(Trial(PROBE_NUMBER, architecture, TrialState.MEASURED, measurements=measurements))
        encoded = encode_measurements(measurements)
        self._outlasting(lambda: self._study.set_user_attr(f"{_PROBE}{architecture}", encoded))

    def confirm(self, trial: Trial, confirmations: Sequence[Mapping[str, Measurement]]) -> None:
        """Record what further training seeds gave for a complete trial, all of them so far.

        Raises:
            ValueError: the trial is not complete in the study, or a value is not finite.
        """
        stored = self._outlasting(lambda: self._find(trial))
        if stored.state is not OptunaState.COMPLETE:
            raise ValueError(f"trial {trial.number} is not complete, so there is nothing to confirm")
        for measurements in confirmations:
            refuse_non_finite(Trial(trial.number, trial.architecture, trial.state, measurements=measurements))
        encoded = [encode_measurements(measurements) for measurements in confirmations]
        # Optuna lets no attribute of a finished trial be changed: these belong to the study.
        self._outlasting(lambda: self._study.set_user_attr(f"{_CONFIRMATIONS}:{trial.number}", encoded))

    def start(self, architecture: Architecture) -> Trial:
        """Record a new pending trial of this architecture.

        Raises:
            ValueError: the study has a trial of this architecture already.
        """
        if (known := self._outlasting(lambda: self._trial_of(architecture))) is not None:
            raise ValueError(f"{architecture} is trial {known.number} already ({known.state})")
        params, distributions = self._parameters(architecture)
        # One insertion with all parameters: no kill leaves a trial without its architecture.
        new = optuna.create_trial(
            state=OptunaState.RUNNING,
            params=params,
            distributions=distributions,
            user_attrs={_ARCHITECTURE: str(architecture)},
        )

        def insert() -> None:
            # It is there already if no more than the answer to an earlier attempt was lost.
            if self._trial_of(architecture) is None:
                self._study.add_trial(new)

        self._outlasting(insert)
        started = self._outlasting(lambda: self._trial_of(architecture))
        assert started is not None
        return started

    def finish(self, trial: Trial) -> None:
        """Record how a pending trial ended, with its measurements and costs.

        The state is written last: a process killed in between leaves the trial pending.

        Raises:
            ValueError: the trial is not pending in the study, its state is not a final one, a
                value is not finite, or a complete trial lacks an objective.
        """
        if trial.state not in _TO_OPTUNA:
            raise ValueError(f"trial {trial.number} cannot finish as {trial.state}")
        refuse_non_finite(trial)
        values = self._objective_values(trial) if trial.state is TrialState.COMPLETE else None
        if (stored := self._outlasting(lambda: self._find(trial))).state.is_finished():
            raise ValueError(f"trial {trial.number} is {_state(stored)} already")
        attributes: dict[str, Any] = {
            _STATE: str(trial.state),
            _REASON: trial.reason,
            _CURVE: [[share, encode_measurements(scores)] for share, scores in trial.curve.items()],
            _COSTS: {name: float(cost) for name, cost in trial.costs.items()},
            _MEASUREMENTS: encode_measurements(trial.measurements),
            # The bare numbers once more, for the dashboard's tables and plots.
            **{name: float(measurement.value) for name, measurement in trial.measurements.items()},
        }
        excesses = self._excesses(trial)

        def write() -> None:
            # It was pending: if it is no more, only the answer to an earlier attempt was lost.
            if self._find(trial).state.is_finished():
                return
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(stored._trial_id, key, value)
            if excesses:
                self._storage.set_trial_system_attr(stored._trial_id, _CONSTRAINTS, excesses)
            self._study.tell(trial.number, values, _TO_OPTUNA[trial.state])

        self._outlasting(write)

    def close(self) -> None:
        """Give back the connection to the database."""
        close_storage(self._storage)

    def _outlasting(self, work: Callable[[], _Result]) -> _Result:
        """Do what may be repeated, through outages of the server, with failures put as advice."""
        with as_user_errors(self.url), _quiet():
            return outlasting(self._storage, self.name, work)

    def _stored(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial_of(self, architecture: Architecture) -> Trial | None:
        return next((self._trial(one) for one in self._stored() if _architecture(one) == architecture), None)

    def _find(self, trial: Trial) -> FrozenTrial:
        stored = {found.number: found for found in self._stored()}.get(trial.number)
        if stored is None or _architecture(stored) != trial.architecture:
            raise ValueError(f"the study has no trial {trial.number} of {trial.architecture}")
        return stored

    def _objective_values(self, trial: Trial) -> list[float]:
        values = [trial.value(objective.metric) for objective in self.objectives]
        missing = [o.metric for o, value in zip(self.objectives, values, strict=True) if value is None]
        if missing:
            raise ValueError(f"trial {trial.number} ({trial.architecture}) is complete without {', '.join(missing)}")
        return [float(value) for value in values if value is not None]

    def _excesses(self, trial: Trial) -> list[float]:
        """One number per constraint whose metric was measured; positive where it is broken."""
        baseline = trial if trial.number == 0 else self._trial(self._outlasting(self._stored)[0])
        found = []
        for constraint in self.constraints:
            value, reference = trial.value(constraint.metric), baseline.value(constraint.metric)
            if value is not None and (reference is not None or not constraint.relative):
                found.append(excess(constraint, value, reference))
        return found

    def _parameters(self, architecture: Architecture) -> tuple[dict[str, int], dict[str, BaseDistribution]]:
        """Optuna's view of an architecture; ranges widen for one outside the space."""
        params: dict[str, int] = dict(zip(FACTORS, architecture.values(), strict=False))
        distributions: dict[str, BaseDistribution] = {}
        for name, value in params.items():
            choices = (*self._factors.get(name, ()), value)
            distributions[name] = IntDistribution(min(choices), max(choices))
        return params, distributions

    def _trial(self, stored: FrozenTrial, confirmations: Sequence[Mapping[str, Any]] = ()) -> Trial:
        architecture, state = _architecture(stored), _state(stored)
        if state is TrialState.PENDING:
            # Half-written results of a killed process do not count.
            return Trial(stored.number, architecture, state)
        attributes = stored.user_attrs
        return Trial(
            number=stored.number,
            architecture=architecture,
            state=state,
            reason=attributes.get(_REASON, ""),
            measurements=decode_measurements(attributes.get(_MEASUREMENTS, {})),
            costs=attributes.get(_COSTS, {}),
            curve={share: decode_measurements(scores) for share, scores in attributes.get(_CURVE, [])},
            confirmations=tuple(decode_measurements(one) for one in confirmations),
        )


def _architecture(stored: FrozenTrial) -> Architecture:
    return Architecture(**{name: stored.params[name] for name in FACTORS if name in stored.params})


def _state(stored: FrozenTrial) -> TrialState:
    if not stored.state.is_finished():
        return TrialState.PENDING
    return TrialState(stored.user_attrs[_STATE])


def _load_or_create(
    storage: RDBStorage, url: str, name: str, objectives: Sequence[Objective], expected_trials: int
) -> optuna.Study:
    # Optuna proposes nothing here; its cheapest sampler keeps `tell` free of side effects.
    sampler = optuna.samplers.RandomSampler(seed=0)
    metrics = [objective.metric for objective in objectives]
    directions: list[Goal] = [objective.goal for objective in objectives]
    if name not in optuna.get_all_study_names(storage):
        if expected_trials:
            raise RunDirectoryError(
                f"{without_password(url)} has no study {name!r}, but this run has started {expected_trials} trials "
                "in it; restore the database from a backup, or start again in a new output directory"
            )
        study = optuna.create_study(storage=storage, sampler=sampler, study_name=name, directions=directions)
        study.set_metric_names(metrics)
        return study
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    stored = [str(direction.name).lower() for direction in study.directions]
    # A process killed between creation and naming leaves no names yet.
    names = study.metric_names or metrics
    if stored != directions or names != metrics:
        found = ", ".join(f"{goal} {metric}" for goal, metric in zip(stored, names, strict=False))
        raise RunDirectoryError(
            f"study {name!r} in {without_password(url)} is a search to {found}; "
            "use another name or output directory for other objectives"
        )
    study.set_metric_names(metrics)
    return study


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's chatter: its progress lines, and its warning that names of objectives are new."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
