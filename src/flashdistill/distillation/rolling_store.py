"""Hidden states of many batches: in memory up to a budget, on disk up to another, beyond it forgotten."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from flashdistill.core.files import writing
from flashdistill.training.compute import Share

Key = tuple[int, Share]
"""A batch's number, and the share of it."""


@dataclass
class _Entry:
    block: int
    place: torch.Tensor | Path
    shape: torch.Size
    device: torch.device


class RollingStore:
    """What enters a block, by batch: [B, S, N] float32 each.

    A batch's entry moves forward block by block and takes the place of the one before.
    """

    def __init__(self, memory_bytes: int, disk_bytes: int = 0, parent: Path | None = None):
        """``parent``: where the directory for what exceeds memory is made; None: no disk is used."""
        self._free_memory, self._free_disk = memory_bytes, disk_bytes if parent is not None else 0
        self._parent = parent
        self._directory: Path | None = None
        self._entries: dict[Key, _Entry] = {}

    def get(self, key: Key) -> tuple[int, torch.Tensor] | None:
        """The number of the block (from 0) that the kept tensor enters, and the tensor."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if isinstance(entry.place, torch.Tensor):
            return entry.block, entry.place
        values = torch.from_numpy(np.fromfile(entry.place, dtype=np.float32))
        return entry.block, values.view(entry.shape).to(entry.device)

    def put(self, key: Key, block: int, hidden: torch.Tensor) -> None:
        """Keep what enters ``block``, if there is room."""
        self._drop(key)
        hidden = hidden.detach()
        if hidden.nbytes <= self._free_memory:
            self._free_memory -= hidden.nbytes
            self._entries[key] = _Entry(block, hidden, hidden.shape, hidden.device)
        elif hidden.nbytes <= self._free_disk:
            self._free_disk -= hidden.nbytes
            path = self._folder() / "{0}-{1.index}-{1.count}".format(*key)
            with writing(path):
                hidden.float().cpu().numpy().tofile(path)
            self._entries[key] = _Entry(block, path, hidden.shape, hidden.device)

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        if isinstance(entry.place, torch.Tensor):
            self._free_memory += entry.place.nbytes
        else:
            self._free_disk += entry.shape.numel() * 4

    def _folder(self) -> Path:
        if self._directory is None:
            assert self._parent is not None
            self._parent.mkdir(parents=True, exist_ok=True)
            self._directory = Path(tempfile.mkdtemp(prefix="hidden-", dir=self._parent))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory
