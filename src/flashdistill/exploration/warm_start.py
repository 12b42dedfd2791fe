"""What another run has found out, for a search that starts warm and for measuring it all again.

The other run is only read, never locked or changed, and may be going on meanwhile: of a SQLite
study a consistent copy is read, on a database server the study is loaded without being written to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.engine import make_url

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import ConfigError, ConfigProblem, RunDirectoryError
from flashdistill.core.measurement import Measurement
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial, TrialState
from flashdistill.core.trust import without_password
from flashdistill.core.yaml_source import read_yaml
from flashdistill.exploration.space import DesignSpace
from flashdistill.exploration.storage import as_user_errors, open_storage, sqlite_url
from flashdistill.exploration.study import Study

INFORMATIVE = (TrialState.COMPLETE, TrialState.INFEASIBLE, TrialState.STOPPED)
"""The states whose measurements say something about an architecture in general."""

_KEY = "search.warm_start"

_LOCK_SECONDS = 60
"""How long to wait for a run that is writing to its SQLite study."""

_PRIMARY_CODE = 0xFF
"""SQLite's extended error codes have the general one in their lowest byte."""


def prior_trials(
    run: Path,
    metrics: Collection[str] | None = None,
    *,
    space: DesignSpace | None = None,
    output: Path | None = None,
) -> list[Trial]:
    """The informative trials of another run, for `SearchProblem.prior`.

    Their numbers are those of the other run, whose baseline is among them. Pending and failed
    trials and latency probes are left out.

    Args:
        run: the other run's directory, relative to the working directory.
        metrics: keep measurements of these alone, and trials that have any; None keeps all.
        space: of this search. Architectures are rewritten as this space names them where one
            space searches the depth and the other does not, and left out where they have another
            depth or another constant factor than all architectures here.
        output: this run's directory, which cannot be its own prior.

    Raises:
        ConfigError: the directory is this run's own or no run's, it has no study or no
            informative trials, or its architectures cannot be compared with those of ``space``.
    """
    run = Path(run).expanduser()
    if output is not None and run.resolve() == Path(output).expanduser().resolve():
        raise _refused(f"{run} is this run's own output directory; name another run's, or give this one another output")
    try:
        settings = _settings(run)
        trials, _ = recorded_trials(run)
    except (ConfigError, RunDirectoryError) as error:
        raise _refused(str(error)) from error
    informative = [trial for trial in trials if trial.state in INFORMATIVE and trial.measurements]
    if not informative:
        raise _refused(
            f"{run} has no finished trial to learn from; wait until it has some, or set {_KEY} to another run or null"
        )
    if space is not None:
        informative = _comparable(run, informative, settings, space)
    return informative if metrics is None else _with_metrics(run, informative, metrics)


def recorded_trials(run: Path) -> tuple[list[Trial], list[Trial]]:
    """All trials and all latency probes of a run's study, as they are now.

    Raises:
        RunDirectoryError: the directory is no run's, or its study is missing, out of reach or damaged.
        ConfigError: its configuration cannot be read.
    """
    settings = _settings(run)
    search = settings.get("search")
    url = (search.get("storage") if isinstance(search, dict) else None) or sqlite_url(RunDirectory(run).study)
    with _readable(run, str(url)) as readable, as_user_errors(str(url)):
        storage = open_storage(readable)
        try:
            # Optuna proposes nothing here; a sampler of its own choice would cost an import.
            sampler = optuna.samplers.RandomSampler(seed=0)
            study = optuna.load_study(study_name=str(settings.get("name")), storage=storage, sampler=sampler)
            reader = Study(study, storage, str(url), objectives=(), factors={}, constraints=())
            return reader.trials(), reader.probes()
        except KeyError as error:
            raise RunDirectoryError(
                f"{without_password(str(url))} has no study {settings.get('name')!r} of {run}; "
                "it has not begun to search"
            ) from error
        finally:
            storage.remove_session()


def _settings(run: Path) -> Mapping[str, Any]:
    """The run's resolved configuration as it stands in its directory.

    The layer of the configuration is above this one, and another version of FlashDistill may have
    written the file: so it is read as data, and only what is needed.
    """
    path = RunDirectory(run).config
    if not path.is_file():
        raise RunDirectoryError(f"{run} is not a run directory: it has no {path.name}; name one that a run has made")
    return read_yaml(path).values


@contextlib.contextmanager
def _readable(run: Path, url: str) -> Iterator[str]:
    """A storage that may be opened as Optuna does it, without an effect on the run.

    Optuna opens SQLite for writing, and would so roll back what a killed run has left for its own
    resumption; a copy is opened instead.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        yield url
        return
    path = Path(parsed.database)
    if not path.is_file() or path.stat().st_size == 0:
        raise RunDirectoryError(f"{run} has no study yet ({path} is missing or empty); start its search first")
    with tempfile.TemporaryDirectory(prefix="flashdistill-") as scratch:
        copy = Path(scratch) / "study.db"
        with as_user_errors(url):
            _copy_database(path, copy)
        yield sqlite_url(copy)


def _copy_database(path: Path, copy: Path) -> None:
    """A consistent copy of a SQLite file that others may be writing to."""
    source_url = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with (
            contextlib.closing(sqlite3.connect(source_url, uri=True, timeout=_LOCK_SECONDS)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            # Within a transaction, so that waiting for a writer ends: the copying itself would retry for ever.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            source.backup(target)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_READONLY:
            raise
        # A killed process left a journal, which we must not roll back; the copy's will be when it is opened.
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")


def _comparable(run: Path, trials: list[Trial], settings: Mapping[str, Any], space: DesignSpace) -> list[Trial]:
    """Those trials that `DesignSpace.encode` describes fully, under this space's names."""
    theirs = settings.get("space")
    theirs = theirs if isinstance(theirs, dict) else {}
    if (template := theirs.get("template")) != space.family.template:
        raise _refused(
            f"the students of {run} are of the template {template}, those of this run of {space.family.template}; "
            "the same numbers make other models: name a run with the same space.template, or null"
        )
    depths = theirs.get("num_blocks") or []
    fixed = depths[0] if len(depths) == 1 else None
    renamed = [dataclasses.replace(one, architecture=_renamed(one.architecture, fixed, space)) for one in trials]
    kept = [trial for trial in renamed if space.comparable(trial.architecture)]
    if not kept:
        here = {name: list(choices) for name, choices in space.factors.items() if len(choices) == 1}
        depth = "" if "num_blocks" in space.factors else f", {space.family.num_blocks} blocks"
        constant = ", ".join(f"{name} {choices[0]}" for name, choices in here.items())
        raise _refused(
            f"none of the {len(trials)} trials of {run} can be compared with this space's architectures, which all "
            f"have {(constant + depth).removeprefix(', ')}; name a run whose students are of that kind, or null"
        )
    return kept


def _renamed(architecture: Architecture, fixed_depth: int | None, space: DesignSpace) -> Architecture:
    """The architecture with its depth in the name where this space's have it there."""
    depth = architecture.num_blocks or fixed_depth
    implied = "num_blocks" not in space.factors and depth == space.family.num_blocks
    return dataclasses.replace(architecture, num_blocks=None if implied else depth)


def _with_metrics(run: Path, trials: list[Trial], metrics: Collection[str]) -> list[Trial]:
    wanted = set(metrics)

    def chosen(measurements: Mapping[str, Measurement]) -> dict[str, Measurement]:
        return {name: one for name, one in measurements.items() if name in wanted}

    kept = [
        dataclasses.replace(
            trial,
            measurements=chosen(trial.measurements),
            curve={share: chosen(scores) for share, scores in trial.curve.items()},
            confirmations=tuple(chosen(one) for one in trial.confirmations),
        )
        for trial in trials
        if wanted & set(trial.measurements)
    ]
    if not kept:
        raise _refused(
            f"the trials of {run} have none of {', '.join(sorted(wanted))}, which this search models; "
            "name a run that measured them, or null"
        )
    return kept


def _refused(message: str) -> ConfigError:
    return ConfigError([ConfigProblem(_KEY, message)])
