"""What is checked and claimed before a run does anything expensive."""

from __future__ import annotations

import os
from collections.abc import Sequence

import transformers

from flashdistill.config import RunConfig, config_differences, config_identity, dump_config, load_config
from flashdistill.core.clock import now
from flashdistill.core.errors import NothingFeasibleError, RunDirectoryError
from flashdistill.core.files import read_json, write_json, write_text
from flashdistill.core.progress import Progress
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trial import Trial
from flashdistill.delivery.json_form import decode, encode
from flashdistill.exploration.space import DesignSpace
from flashdistill.exploration.warm_start import prior_trials


def claim(directory: RunDirectory, config: RunConfig) -> None:
    """Make the directory this configuration's, or check that it is.

    Raises:
        RunDirectoryError: it belongs to another configuration; names the differing keys.
    """
    state, identity = directory.state(), config_identity(config)
    if "identity" not in state:
        if any(path.name not in (".lock", "log.txt", "requested.yaml") for path in directory.path.iterdir()):
            raise RunDirectoryError(
                f"{directory.path} is not empty and not a run's directory; choose another with --output"
            )
        write_text(directory.requested, dump_config(config))
        directory.remember(identity=identity, started=now())
    elif state["identity"] != identity:
        differences = config_differences(load_config(directory.requested), config)
        raise RunDirectoryError(
            f"{directory.path} belongs to another configuration; choose another --output, or undo: "
            + "; ".join(differences or ["the version of the configuration format"])
        )


def keep_prior(directory: RunDirectory, config: RunConfig, progress: Progress) -> None:
    """Keep what the run of ``search.warm_start`` has found out so far: a resumed search asks the same question.

    Raises:
        ConfigError: there is nothing there to start from.
    """
    if config.search.warm_start is None or directory.prior.exists():
        return
    space = DesignSpace(config.space, config.student_family(config.expected_vocab_size[0]))
    found = prior_trials(config.search.warm_start, space=space, output=config.output)
    write_json(directory.prior, encode(found))
    progress.message(f"warm start: {len(found)} trials of {config.search.warm_start}")


def kept_prior(directory: RunDirectory) -> Sequence[Trial]:
    """What `keep_prior` kept; nothing where the search starts from no other run."""
    return decode(Sequence[Trial], read_json(directory.prior)) if directory.prior.exists() else ()


def require_feasible(config: RunConfig, vocab_size: int) -> None:
    """Stop before any training if the size limits exclude every architecture.

    Raises:
        NothingFeasibleError: names the smallest and the largest architecture.
    """
    profile = DesignSpace(config.space, config.student_family(vocab_size)).profile(config.constraints, config.baseline)
    if profile.size_limits and not profile.within_limits:
        raise NothingFeasibleError(
            f"none of the {profile.size:,} architectures satisfies {' and '.join(map(str, profile.size_limits))}: the "
            f"smallest, {profile.smallest}, has {profile.smallest_parameters:,} parameters, the largest, "
            f"{profile.largest}, {profile.largest_parameters:,}; change the constraint or the space"
        )


def quiet_libraries() -> None:
    """Keep libraries from talking over our own messages."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
