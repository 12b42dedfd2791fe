"""Encoders that are not our students, exported for a target: teachers, and whatever a user serves today.

Shapes: B sequences, S tokens, h hidden size.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from flashdistill.core.errors import TargetError, first_line
from flashdistill.core.files import content_key
from flashdistill.delivery.export import ENCODER_FILE, Arrays, tensors
from flashdistill.hardware.artifacts import artifact_digest
from flashdistill.hardware.cache import cached_artifact
from flashdistill.hardware.parity import Expected
from flashdistill.hardware.targets.base import ArtifactFormat
from flashdistill.models.delivered import ServedEncoder, load_encoder
from flashdistill.models.onnx_writer import INPUT_NAMES, save
from flashdistill.models.work import module_flops


@dataclass(frozen=True)
class ForeignEncoder:
    """An exported encoder and what is known of it.

    Attributes:
        artifact: what a target is given.
        expected: what it must answer to given inputs.
        num_parameters: of what is served; heads and pooler are not.
        weights: those that every call reads: all but the embedding tables.
    """

    artifact: Path
    expected: Callable[[Arrays], Expected]
    vocab_size: int
    num_parameters: int
    weights: int
    _encoder: ServedEncoder

    def flops(self, inputs: Arrays) -> int:
        """Floating-point operations of one call; a multiply-add counts as two."""
        return module_flops(self._encoder.body, {"input_ids": tensors(inputs)["input_ids"]})


def exported_foreign(directory: Path, cache_root: Path, artifact_format: ArtifactFormat) -> ForeignEncoder:
    """Any `transformers` encoder as a target wants it; an ONNX file is made once and kept in the cache.

    Raises:
        TargetError: the directory holds no encoder, or it cannot be exported in this format.
    """
    encoder = load_encoder(directory)
    artifact = directory
    if artifact_format == "onnx":
        key = f"foreign-{content_key(artifact_digest(directory), torch.__version__)}"
        root = cache_root / "exports"
        artifact = cached_artifact(root, key, lambda path: export_foreign(directory, path), ENCODER_FILE)
    elif artifact_format != "checkpoint":
        raise TargetError(f"{directory} cannot be measured on this target: it takes the format {artifact_format}")
    embeddings = [module for module in encoder.modules() if isinstance(module, nn.Embedding)]
    tables = sum(module.weight.numel() for module in embeddings)
    total = sum(parameter.numel() for parameter in encoder.parameters())
    return ForeignEncoder(
        artifact,
        lambda inputs: expected_of_foreign(directory, inputs),
        encoder.body.config.vocab_size,
        total,
        total - tables,
        encoder,
    )


@torch.no_grad()
def expected_of_foreign(directory: Path, inputs: Arrays) -> Expected:
    """What the export of any `transformers` encoder must answer: the last feature map [B, S, h].

    Raises:
        TargetError: the directory holds no encoder.
    """
    return Expected(inputs, [load_encoder(directory)(**tensors(inputs)).numpy()])


def export_foreign(directory: Path, path: Path) -> None:
    """Write any `transformers` encoder as ONNX with torch's own exporter.

    Inputs are ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 [B, S] with both axes
    dynamic; the output is ``last_hidden_state`` [B, S, h], as of the graphs that are written for
    students. A model that knows no segments has that input too and ignores it, so that every
    exported encoder is called alike. Weights beyond protobuf's 2 GB go to ``<path>.data``.

    Raises:
        TargetError: the directory holds no encoder, the exporter's package is missing, or it
            cannot export the model.
    """
    require_exporter()
    # Its attention is plain matrix products: every runtime reads those, at any opset.
    export_module(load_encoder(directory, attention="eager"), path, ["last_hidden_state"], str(directory))


def export_module(module: nn.Module, path: Path, outputs: Sequence[str], name: str) -> None:
    """Write what takes ids, mask and segments as ONNX, with torch's own exporter; see `export_foreign`.

    Args:
        outputs: names of the module's outputs.
        name: of the model, for messages.

    Raises:
        TargetError: the exporter's package is missing, or it cannot export the module.
    """
    require_exporter()
    with _silent_exporter(), torch.no_grad():
        try:
            program = _dynamic_program(module, outputs)
            assert program is not None
            save(program.model_proto, path)
        except Exception as error:  # whatever tracing and translation raise
            reason = first_line(error)
            raise TargetError(f"export: {name}: torch cannot export this model to ONNX: {reason}") from error


def require_exporter() -> None:
    """Raises TargetError, which says what to install, where models of others cannot be exported."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise TargetError(
            f"exporting a model that is not one of our students needs onnxscript, which cannot be imported ({error}); "
            "install it with: pip install 'flashdistill[exporter]'"
        ) from error


def _dynamic_program(module: nn.Module, outputs: Sequence[str]) -> torch.onnx.ONNXProgram | None:
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    example = tuple(
        torch.ones(2, 8, dtype=torch.int64) for _ in INPUT_NAMES
    )  # sizes of 0 and 1 would be taken as fixed
    return torch.onnx.export(
        module,
        example,
        input_names=list(INPUT_NAMES),
        output_names=list(outputs),
        dynamic_shapes=[{0: batch, 1: sequence}] * len(INPUT_NAMES),
        dynamo=True,
        verbose=False,
    )


@contextlib.contextmanager
def _silent_exporter() -> Iterator[None]:
    """Its progress and its remarks about torch's own internals are of no use to a caller."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
