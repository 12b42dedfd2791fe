"""Tensors on disk by name: checked before use, bounded in bytes, safe against crashes."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from flashdistill.core.files import atomic_path

log = logging.getLogger(__name__)

_HEADER_BYTES = 1024
"""Of a file, per tensor, at most."""


class SignalFiles:
    """One safetensors file an entry, memory-mapped when read, with a checksum, up to a number of bytes in all."""

    def __init__(self, directory: Path | None, byte_budget: int, key: str):
        """``key``: what the entries belong to; files of another key are made anew."""
        self._directory = directory if byte_budget > 0 else None
        self._key = key
        self._verified: set[str] = set()
        self._free = byte_budget if self._directory is not None else 0
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._free -= sum(path.stat().st_size for path in self._directory.glob("*.safetensors"))

    def has_room(self, payload_bytes: int, tensors: int) -> bool:
        """Whether an entry of this size could be written."""
        return file_bytes(payload_bytes, tensors) <= self._free

    def recall(
        self, name: str, wanted: Iterable[str], make: Callable[[], Mapping[str, torch.Tensor]]
    ) -> Mapping[str, torch.Tensor]:
        """The wanted tensors of the entry ``name``; what is not there is made, and kept if there is room."""
        if (known := self.read(name, wanted)) is not None:
            return known
        made = make()
        self.write(name, made)
        return made

    def read(self, name: str, wanted: Iterable[str]) -> dict[str, torch.Tensor] | None:
        """The wanted tensors of the entry ``name``; None if it is missing, foreign or damaged."""
        if self._directory is None:
            return None
        path = self._directory / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            return self._checked(path, wanted)
        except (SafetensorError, ValueError, OSError) as error:
            log.warning("computing the teacher's signals again, %s cannot be used: %s", path, error)
            self._free += path.stat().st_size
            path.unlink(missing_ok=True)
            return None

    def write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep an entry, if there is room."""
        if self._directory is None or not self.has_room(sum(t.nbytes for t in tensors.values()), len(tensors)):
            return
        path = self._directory / f"{name}.safetensors"
        with atomic_path(path) as temporary:
            save_file(dict(tensors), temporary, {"key": self._key, "checksum": _checksum(tensors)})
        self._free -= path.stat().st_size
        self._verified.add(path.name)

    def _checked(self, path: Path, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != self._key:
                raise ValueError("it belongs to another teacher, corpus or batch size")
            if path.name not in self._verified:
                everything = {key: file.get_tensor(key) for key in sorted(file.keys())}
                if metadata.get("checksum") != _checksum(everything):
                    raise ValueError("its checksum is wrong")
                self._verified.add(path.name)
            return {key: file.get_tensor(key) for key in wanted}


def file_bytes(payload_bytes: int, tensors: int) -> int:
    """The size of an entry's file, at most."""
    return payload_bytes + _HEADER_BYTES * (1 + tensors)


def _bytes(tensor: torch.Tensor) -> Any:
    """The tensor's memory as a buffer."""
    return tensor.contiguous().view(torch.uint8).numpy()


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(_bytes(tensors[name]), value)
    return f"{value:08x}"
