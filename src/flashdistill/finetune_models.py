"""What a user calls a model on the command line, as something that can be fine-tuned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import MobileBertConfig

from flashdistill.config import RunConfig, architecture_misfit
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import InputError, TeacherError
from flashdistill.core.run_directory import RunDirectory
from flashdistill.data.tokenizer import load_tokenizer
from flashdistill.evaluation.finetuning.sources import FromScratch, ModelSource
from flashdistill.models.foreign import locate, read_config
from flashdistill.models.ib_bert import projects_block_input
from flashdistill.models.onnx_writer import check_supported

_ARCHITECTURE = re.compile(r"\d+(_\d+){4,5}")


def named_models(models: Sequence[str], config: RunConfig | None, scratch: bool) -> dict[str, ModelSource]:
    """Models by the names that tables show.

    Args:
        models: directories, hub ids, or architectures, which get random weights.
        config: needed for architectures.
        scratch: beside every student, its architecture with random weights.

    Raises:
        InputError: a name stands for nothing that can be fine-tuned.
    """
    if not models:
        raise InputError("name at least one model: a delivered student's directory, a transformers directory or hub id")
    if repeated := sorted({model for model in models if models.count(model) > 1}):
        raise InputError(f"{repeated[0]} is named twice")
    sources = {model: _source(model, config) for model in models}
    titles = _titles([model for model, source in sources.items() if not isinstance(source, FromScratch)])
    named: dict[str, ModelSource] = {}
    for model, source in sources.items():
        if isinstance(source, FromScratch):
            named[f"{source.architecture} from scratch"] = source
            continue
        named[titles[model]] = source
        if scratch:
            named[f"{titles[model]} from scratch"] = untrained(Path(model).expanduser())
    return named


def untrained(directory: Path) -> FromScratch:
    """A delivered student's architecture and tokenizer, its weights random.

    Raises:
        InputError: the directory holds no student.
    """
    try:
        config = read_config(directory)
        assert isinstance(config, MobileBertConfig)
        check_supported(config)
    except (TeacherError, ValueError, AssertionError) as error:
        raise InputError(
            f"--scratch: {directory} is no student of this tool, so there is no architecture to train from scratch"
        ) from error
    family = StudentFamily(
        template="autodistill" if projects_block_input(config) else "mobilebert",
        num_blocks=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        embedding_size=config.embedding_size,
        max_positions=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=config.pad_token_id or 0,
    )
    architecture = Architecture(
        config.hidden_size,
        config.intra_bottleneck_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.num_feedforward_networks,
    )
    return FromScratch(architecture, family, directory)


def _source(model: str, config: RunConfig | None) -> ModelSource:
    path = Path(model).expanduser()
    if path.is_dir():
        run = RunDirectory(path)
        if run.config.is_file() and not (path / "config.json").is_file():
            there = ", ".join(str(one) for one in sorted(run.models.glob("[!.]*"))) or "none yet"
            raise InputError(
                f"{model} is a run; name one of its models ({there}), or fine-tune all of them with "
                f"flashdistill evaluate {model}"
            )
        return str(path)
    if _ARCHITECTURE.fullmatch(model):
        return _architecture(model, config)
    return model


def _architecture(name: str, config: RunConfig | None) -> FromScratch:
    if config is None:
        raise InputError(
            f"{name} is an architecture: to train it from scratch, name a run's YAML file with --config; a delivered "
            f"student is named by its directory, as in runs/NAME/models/{name}"
        )
    try:
        architecture = Architecture.parse(name)
    except ValueError as error:
        raise InputError(str(error)) from None
    if problem := architecture_misfit(architecture, config.space):
        raise InputError(f"got {architecture}, {problem}")
    directory = _tokenizer_directory(config)
    tokenizer: Any = load_tokenizer(directory)
    return FromScratch(architecture, config.student_family(len(tokenizer), tokenizer.pad_token_id), directory)


def _tokenizer_directory(config: RunConfig) -> Path:
    """Where the tokenizer of a run's students is: with one of them, or with a teacher used as it comes."""
    for directory in sorted(RunDirectory(config.output).models.glob("[!.]*")):
        if (directory / "tokenizer.json").is_file():
            return directory
    if config.teacher.model is not None and config.teacher.vocabulary is None:
        return locate(config.teacher.model)
    raise InputError(
        f"the vocabulary of {config.name} is made by its run, and {config.output} has no model yet; "
        "flashdistill run it first"
    )


def _titles(models: Sequence[str]) -> dict[str, str]:
    """The shortest endings of directories that tell them apart; hub ids stay whole."""
    titles = {model: model for model in models}
    parts = {model: Path(model).expanduser().resolve().parts for model in models if Path(model).expanduser().is_dir()}
    for model, own in parts.items():
        for length in range(1, len(own) + 1):
            ending = own[-length:]
            if sum(other[-length:] == ending for other in parts.values()) == 1:
                titles[model] = "/".join(ending).lstrip("/")
                break
    return titles
