"""A finished search on another machine or target: accuracies are kept, everything else is measured anew.

What training told of an architecture (accuracies, curves, further seeds) holds wherever it is
served; its latency does not. So a new run directory gets the trials of an old one, with the old
accuracies and new measurements. No teacher is loaded and nothing is trained. ``flashdistill run
NEW/config.yaml`` then goes on searching and delivers there.

The new directory has its ``config.yaml`` only once all trials are in it: until then `run` cannot
take it for one to go on in, and the same `remeasure` resumes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from flashdistill import results
from flashdistill.config import RunConfig, config_differences, dump_config, load_config
from flashdistill.core.architecture import StudentFamily
from flashdistill.core.errors import ConfigError, ConfigProblem, RunDirectoryError
from flashdistill.core.files import write_text
from flashdistill.core.measurement import known_before_training, metric_parts
from flashdistill.core.progress import Progress
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial, TrialState
from flashdistill.core.trust import without_password
from flashdistill.exploration.ownership import Owner
from flashdistill.exploration.pareto import pareto_front
from flashdistill.exploration.space import DesignSpace
from flashdistill.exploration.storage import sqlite_url
from flashdistill.exploration.study import Study
from flashdistill.exploration.warm_start import recorded_trials
from flashdistill.hardware.session import require_target
from flashdistill.preflight import claim, quiet_libraries, require_feasible
from flashdistill.remeasurement import Remeasurement, carried_over, vocabulary_of
from flashdistill.scales import SERVED_ACCURACY, Scales

_MAY_CHANGE = ("target", "further_targets", "objectives", "constraints", "search", "select", "name", "output", "cache")
"""What no accuracy of the old run depends on."""

_SPEAKS_FOR_ITSELF = ("runtime", "device", "precision", "host")
"""Keys of the target whose value needs no name beside it."""


def remeasure(run: Path, output: Path | None, overrides: list[str], progress: Progress) -> Path:
    """Make a new run directory with the trials of ``run``, measured again; returns it.

    The old directory is only read, and may be that of a run that is going on. The same call
    resumes, and takes up what the old run has finished since.

    Args:
        run: the directory of a run whose baseline is complete.
        output: of the new run; None for an override of ``output``, else a name beside ``run``
            that says what of the target changed.
        overrides: ``dotted.key=YAML value``; what accuracies depend on cannot change.

    Raises:
        ConfigError: an override is wrong, or changes what the accuracies depend on.
        RunDirectoryError: ``run`` is no run directory or its study cannot be read, or the new
            directory belongs to something else.
        TargetError: a target cannot be used, or cannot run the baseline.
        NothingFeasibleError: the size limits exclude every architecture.
    """
    quiet_libraries()
    source = RunDirectory(Path(run).expanduser())
    trials, probes = recorded_trials(source.path)
    if not trials or trials[0].state is not TrialState.COMPLETE:
        raise RunDirectoryError(f"the baseline of {source.path} is not trained yet, so there is nothing to keep")
    old = load_config(source.config)
    new = _renewed(source.path, old, output, overrides)
    _require_known(source.path, old, new, trials)
    vocabulary = vocabulary_of(old, trials[0])
    require_feasible(new, vocabulary)
    # The padding token is not known without the tokenizer; no size and no latency depends on it.
    family = new.student_family(vocabulary)
    directory = RunDirectory(new.output)
    directory.create()
    with directory.locked():
        _claim(directory, new, source.path)
        if hasattr(progress, "attach_log"):
            progress.attach_log(directory.log)  # type: ignore[attr-defined]
        for target in (new.target, *new.further_targets.values()):
            require_target(target, directory.measurements, progress)
        with Scales(new, family, directory.measurements, progress) as scales:
            study = _study(directory, new, family)
            try:
                Remeasurement(old, new, directory, study, scales, family, progress).measure_all(trials, probes)
                recorded = study.trials()
            finally:
                study.close()
        files = ["teacher.json", *(f"candidates/{trial.architecture}/flash/curves.json" for trial in recorded)]
        if new.search.warm_start == old.search.warm_start:
            files.append(directory.prior.name)
        _copy_files(source.path, directory.path, files)
        write_text(directory.config, dump_config(new, results.version_lines()))
    for line in compare_fronts(trials, old, recorded, new):
        progress.message(line)
    progress.message(f"to go on searching and deliver: flashdistill run {directory.config}")
    return directory.path


def compare_fronts(
    old_trials: Sequence[Trial], old: RunConfig, new_trials: Sequence[Trial], new: RunConfig
) -> list[str]:
    """What has become of the front: which of the old one remain, which are new, and why others are gone."""
    before = [trial.architecture for trial in pareto_front(old_trials, old.objectives)]
    after = [trial.architecture for trial in pareto_front(new_trials, new.objectives)]
    known = {trial.architecture: trial for trial in new_trials}
    stay = [architecture for architecture in after if architecture in before]
    come = [architecture for architecture in after if architecture not in before]
    lines = [f"{len(stay)} of {len(before)} architectures of the old front are on the new one, of {len(after)}"]
    if stay:
        lines.append("still on the front: " + ", ".join(map(str, stay)))
    if come:
        lines.append("new on the front: " + ", ".join(map(str, come)))
    for architecture in before:
        if architecture not in after:
            lines.append(f"off the front: {architecture}, {_why_gone(known.get(architecture))}")
    return lines


def _why_gone(trial: Trial | None) -> str:
    if trial is None or trial.state is TrialState.PENDING:
        return "not measured yet"
    return "dominated" if trial.state is TrialState.COMPLETE else f"{trial.state}: {trial.reason}"


def _renewed(run: Path, old: RunConfig, output: Path | None, overrides: Sequence[str]) -> RunConfig:
    """The old run's resolved configuration with the overrides and an output of its own."""
    new = load_config(RunDirectory(run).config, list(overrides))
    if output is not None:
        new = new.model_copy(update={"output": Path(output).expanduser()})
    elif not any(override.partition("=")[0].strip() == "output" for override in overrides):
        new = new.model_copy(update={"output": run.absolute().with_name(f"{run.absolute().name}-{_label(old, new)}")})
    if new.output.resolve() == run.resolve():
        raise RunDirectoryError(f"{run} stays as it is; name another directory with --output")
    problems = [
        ConfigProblem(
            difference.partition(": ")[0],
            f"{difference.partition(': ')[2]}; accuracies depend on it, so they cannot be kept: leave it as it was, "
            "or search anew, perhaps with search.warm_start",
        )
        for difference in config_differences(old, new)
        if difference.partition(": ")[0].partition(".")[0] not in _MAY_CHANGE
    ]
    if problems:
        raise ConfigError(problems)
    storage = new.search.storage
    if storage is not None and (without_password(storage), new.name) == (old.search.storage, old.name):
        has = f"the storage {without_password(storage)!r} has a study {old.name!r} already, the old run's"
        raise ConfigError([ConfigProblem("name", f"{has}; give another name=NAME")])
    return new


def _label(old: RunConfig, new: RunConfig) -> str:
    """What changed in the target, fit for a directory's name."""
    before, after = (config.target.model_dump(mode="json", exclude={"measurement", "python"}) for config in (old, new))
    changed = [
        str(value) if key in _SPEAKS_FOR_ITSELF else f"{key}-{value}"
        for key, value in after.items()
        if value != before[key] and value is not None and not key.startswith("peak_")
    ]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(changed)).strip("-.") or "remeasured"


def _require_known(run: Path, old: RunConfig, new: RunConfig, trials: Sequence[Trial]) -> None:
    """Refuse objectives and constraints on what training would have to tell and has not told.

    Raises:
        ConfigError: names the metric.
    """
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    for metric in (wanted.metric for wanted in (*new.objectives, *new.constraints)):
        if known_before_training(metric) or all(
            metric in carried_over(trial.measurements, old, new) for trial in complete
        ):
            continue
        why = (
            "how accurately a target serves depends on its runtime and precision, and the students' weights are not "
            "kept; use mlm_accuracy"
            if metric_parts(metric)[0] == SERVED_ACCURACY
            else "use a metric that its trials have"
        )
        message = f"not every trial of {run} has a {metric} that holds on the new target: {why}, or search anew"
        raise ConfigError([ConfigProblem("objectives or constraints", message)])


def _claim(directory: RunDirectory, config: RunConfig, run: Path) -> None:
    """Make the directory the one into which ``run`` is remeasured, or check that it is.

    Raises:
        RunDirectoryError: it belongs to a run of its own, another one's remeasurement, or other overrides.
    """
    state, source = directory.state(), str(run.resolve())
    if state.get("remeasured_from", source) != source:
        raise RunDirectoryError(
            f"{directory.path} has the trials of {state['remeasured_from']}; choose another --output"
        )
    if "started_trials" in state and "remeasured_from" not in state:
        raise RunDirectoryError(f"{directory.path} is the directory of a run of its own; choose another --output")
    claim(directory, config)
    # The step counts are the old run's, not to be calibrated anew.
    budgets = {name: getattr(config, name).model_dump(mode="json") for name in ("flash", "regular")}
    directory.remember(remeasured_from=source, **budgets)


def _study(directory: RunDirectory, config: RunConfig, family: StudentFamily) -> Study:
    url = config.search.storage or sqlite_url(directory.study)
    started = int(directory.state().get("started_trials", 0))
    factors = DesignSpace(config.space, family).factors
    owner = Owner.of(directory)
    return Study.open(url, config.name, config.objectives, factors, config.constraints, started, owner)


def _copy_files(source: Path, directory: Path, names: Sequence[str]) -> None:
    """What else does not depend on the target: the teacher's scores, learning curves, where the search began warm."""
    for name in names:
        if (source / name).is_file() and not (directory / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, directory / name)
