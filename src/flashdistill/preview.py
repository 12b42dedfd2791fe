"""What a run would do, said without doing any of it: the output of ``flashdistill check``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flashdistill.config import RunConfig
from flashdistill.core.errors import NothingFeasibleError
from flashdistill.distillation.settings import DistillationSettings
from flashdistill.exploration.profile import SpaceProfile
from flashdistill.exploration.space import DesignSpace
from flashdistill.hardware.settings import TargetSettings
from flashdistill.models.parameter_count import count_parameters

Rows = list[tuple[str, str]]


def preview(config: RunConfig) -> tuple[str, NothingFeasibleError | None]:
    """The space profile, the schedule and the places of a run as text; and why nothing can come of it.

    Parameter counts are those of the vocabulary the configuration asks for. Where only the
    teacher knows its size they assume BERT's, and the text says so.
    """
    vocabulary, known = config.expected_vocab_size
    family = config.student_family(vocabulary)
    profile = DesignSpace(config.space, family).profile(config.constraints, config.baseline)
    baseline = f"{config.baseline}, {count_parameters(config.baseline, family):,} parameters"
    sections = [
        ("design space", [("template", _template(config)), *_profile_rows(profile), ("baseline", baseline)]),
        ("schedule", list(_schedule_rows(config, profile.size))),
        ("places", _place_rows(config)),
    ]
    lines: list[str] = []
    for title, rows in sections:
        width = max(len(name) for name, _ in rows)
        lines += [title, *(f"  {name:<{width}}  {text}" for name, text in rows), ""]
    if not known:
        lines.append(f"Parameter counts assume a vocabulary of {vocabulary:,}; the teacher's own decides in the run.")
    return "\n".join(lines).rstrip(), _nothing_feasible(profile)


def _template(config: RunConfig) -> str:
    depths = " or ".join(map(str, config.space.num_blocks))
    return f"{config.space.template}, {depths} blocks, embeddings of {config.space.embedding_size}"


def _profile_rows(profile: SpaceProfile) -> Rows:
    rows = [
        ("architectures", f"{profile.size:,}"),
        ("smallest", f"{profile.smallest}, {profile.smallest_parameters:,} parameters"),
        ("largest", f"{profile.largest}, {profile.largest_parameters:,} parameters"),
    ]
    if profile.size_limits:
        about = "about " if profile.estimated else ""
        limits = " and ".join(map(str, profile.size_limits))
        rows.append(("within size limits", f"{about}{profile.within_limits:,} of {profile.size:,} ({limits})"))
    else:
        rows.append(("within size limits", "all; no constraint on num_parameters"))
    return rows


def _schedule_rows(config: RunConfig, space_size: int) -> Iterator[tuple[str, str]]:
    trials = config.search.trials
    count = f"{trials:,} architectures and the baseline"
    if trials > space_size:
        count = f"all {space_size:,} architectures (search.trials is {trials:,}) and the baseline"
    yield "search", f"{config.search.algorithm}, {count}"
    yield from _search_rows(config)
    yield "target", _target(config.target)
    for name, target in config.further_targets.items():
        yield f"target {name}", _target(target)
    yield "objectives", ", ".join(f"{objective.goal} {objective.metric}" for objective in config.objectives)
    yield "constraints", ", ".join(map(str, config.constraints)) or "none"
    yield "flash", _budget(config.flash, config.space.num_blocks)
    yield "regular", _budget(config.regular, config.space.num_blocks)
    selected = f"the best {config.select.top} of the Pareto front"
    yield "selected", selected + (" and the baseline" if config.select.include_baseline else "")
    seconds = _training_seconds(config, min(trials, space_size))
    if seconds is not None:
        again = (config.flash.seconds or 0.0) * config.search.confirm_seeds * (config.select.top + 1)
        more = f", and about {_minutes(again)} of confirmation" if again else ""
        yield "training time", f"at most about {_minutes(seconds)}{more}; measuring and the teacher come on top"


def _search_rows(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What else the search does, where it is asked to."""
    search = config.search
    if search.warm_start is not None:
        yield "warm start", f"with the trials of {search.warm_start}"
    if search.latency_probes:
        yield "latency probes", f"{search.latency_probes:,} architectures, measured beforehand and not trained"
    if search.early_stopping:
        yield "early stopping", "flash distillations that fall behind a student no slower end early"
    if search.confirm_seeds:
        seeds = "1 further seed" if search.confirm_seeds == 1 else f"{search.confirm_seeds} further seeds"
        yield "confirmation", f"the baseline and what is selected are trained with {seeds}"


def _target(target: TargetSettings) -> str:
    threads = f", {target.threads} thread{'s' * (target.threads > 1)}" if target.device_type == "cpu" else ""
    place = f" of {target.host}" if target.host else ""
    shape = f"batch {target.batch_size} × {target.sequence_length} tokens"
    return f"{target.runtime} {target.precision} on {target.device}{place}{threads}, {shape}"


def _budget(settings: DistillationSettings, depths: list[int]) -> str:
    optimization = f"batch {settings.batch_size:,}, {settings.optimizer}, learning rate {settings.learning_rate:g}"
    if settings.seconds is not None:
        return f"{settings.seconds:g} s per candidate, steps calibrated on the baseline; {optimization}"
    stages = f"{' or '.join(map(str, depths))} blocks × {settings.steps_per_block:,} steps"
    return f"{stages}, then {settings.pretraining_steps:,} steps; {optimization}"


def _training_seconds(config: RunConfig, candidates: int) -> float | None:
    """Seconds of distillation without confirmation, where both budgets are given in seconds."""
    if config.flash.seconds is None or config.regular.seconds is None:
        return None
    delivered = config.select.top + config.select.include_baseline
    return config.flash.seconds * (candidates + 1) + config.regular.seconds * delivered


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _place_rows(config: RunConfig) -> Rows:
    output = Path(config.output).absolute()
    return [
        ("output", f"{output} ({_state(output)})"),
        ("cache", str(config.cache_directory.absolute())),
    ]


def _state(output: Path) -> str:
    try:
        if not output.exists() or not any(output.iterdir()):
            return "new"
    except NotADirectoryError:
        return "a file is in its place; choose another"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "exists: a run of this configuration resumes"


def _nothing_feasible(profile: SpaceProfile) -> NothingFeasibleError | None:
    if profile.within_limits or profile.estimated:
        return None
    limits = " and ".join(map(str, profile.size_limits))
    return NothingFeasibleError(
        f"no architecture of the space satisfies {limits}: they have {profile.smallest_parameters:,} "
        f"({profile.smallest}) to {profile.largest_parameters:,} parameters ({profile.largest}); "
        "change the constraints or the space"
    )
