"""Checkpoints that survive a crash at any moment: safetensors and JSON, never pickle.

A checkpoint is a directory ``step-NNNNNNNN`` with ``tensors.safetensors`` and, written last,
``manifest.json`` with the SHA-256 of the tensors and of itself. A directory without a valid
manifest does not exist for the reader. The one before is removed only after the new one has been
read back.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flashdistill.core.files import (
    WriteError,
    atomic_path,
    read_sealed_json,
    sha256_file,
    sync_directory,
    write_sealed_json,
    writing,
)

log = logging.getLogger(__name__)

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"
_RANDOM = "random."


@dataclass
class Snapshot:
    """Everything that training continues from.

    Attributes:
        tensors: weights and optimiser moments by unique name.
        position: JSON values: the phase, the step, counters of the optimiser.
    """

    tensors: dict[str, torch.Tensor]
    position: dict[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one training, in one directory."""

    def __init__(self, directory: Path, every_seconds: float = 60.0):
        self.directory = Path(directory)
        self.every_seconds = every_seconds
        self._last_save = time.monotonic()
        self._count = 0

    def due(self) -> bool:
        """True once ``every_seconds`` have passed since the last save."""
        return time.monotonic() - self._last_save >= self.every_seconds

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint and drop the ones before it.

        Raises:
            WriteError: the disk is full or failing; the checkpoint before is as it was.
        """
        existing = self._numbers()
        number = (existing[-1] if existing else 0) + 1
        target = self._path(number)
        try:
            self._write(target, snapshot)
            if self._read(number) is None:
                raise WriteError(f"the checkpoint {target} does not read back as it was written: is the disk failing?")
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)  # a part of it only takes space
            raise
        for old in existing:
            shutil.rmtree(self._path(old), ignore_errors=True)
        self._last_save = time.monotonic()

    def _write(self, target: Path, snapshot: Snapshot) -> None:
        with writing(target):
            target.mkdir(parents=True)
        with atomic_path(target / TENSORS) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}, temporary)
        write_sealed_json(
            target / MANIFEST,
            {"sha256": sha256_file(target / TENSORS), "position": snapshot.position},
        )
        sync_directory(self.directory)

    def load_latest(self) -> Snapshot | None:
        """The newest checkpoint that verifies; None if there is none."""
        for number in reversed(self._numbers()):
            position = self._read(number)
            if position is not None:
                return Snapshot(load_file(self._path(number) / TENSORS), position)
            log.warning("ignoring the damaged checkpoint %s", self._path(number))
        return None

    def clear(self) -> None:
        """Remove all checkpoints: the training is over and its result is kept elsewhere."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.directory / f"step-{number:08d}"

    def _numbers(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.directory.glob("step-*"))

    def _read(self, number: int) -> dict[str, Any] | None:
        """The position of a checkpoint whose tensors match their hash; None if damaged."""
        try:
            manifest = read_sealed_json(self._path(number) / MANIFEST)
            intact = sha256_file(self._path(number) / TENSORS) == manifest["sha256"]
            return manifest["position"] if intact else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """The parameters and persistent buffers of named modules, tied weights once."""
    tensors: dict[str, torch.Tensor] = {}
    for prefix, module in modules.items():
        persistent = set(module.state_dict())
        for name, parameter in module.named_parameters():
            tensors[f"{prefix}.{name}"] = parameter.detach()
        for name, buffer in module.named_buffers():
            if name in persistent:
                tensors[f"{prefix}.{name}"] = buffer
    return tensors


@torch.no_grad()
def restore_modules(modules: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy saved weights into modules of the same structure.

    Raises:
        KeyError: a weight is missing from the checkpoint.
    """
    for name, target in module_tensors(modules).items():
        target.copy_(tensors[name])


def random_tensors() -> dict[str, torch.Tensor]:
    """The states of the random generators: of the CPU and of the current GPU, where there is one."""
    tensors = {f"{_RANDOM}cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors[f"{_RANDOM}cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore_random(tensors: Mapping[str, torch.Tensor]) -> None:
    """Continue the random generators from saved states."""
    torch.set_rng_state(tensors[f"{_RANDOM}cpu"])
    if torch.cuda.is_available() and f"{_RANDOM}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{_RANDOM}cuda"])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's moments as named tensors, and its scalar counters."""
    tensors: dict[str, torch.Tensor] = {}
    steps = [{"step": group["step"]} for group in optimizer.param_groups if "step" in group]
    scalars: dict[str, Any] = {"groups": steps}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{key}"] = value.detach().clone()
    return tensors, scalars


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], scalars: Mapping[str, Any]
) -> None:
    """Give a fresh optimiser over the same parameters its saved moments and counters."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    if state:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for group, saved in zip(optimizer.param_groups, scalars.get("groups", []), strict=False):
        group.update(saved)
