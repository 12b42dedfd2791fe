"""Where training runs: one device of one process, or of each of several processes.

Several processes are started from outside, by ``accelerate launch`` or ``torchrun``; every one
takes its share of each batch, and the gradients are averaged over all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flashdistill.core.errors import FlashDistillError, InputError
from flashdistill.training.settings import TrainingSettings

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: one of them measures and evaluates while the rest wait."""


@dataclass(frozen=True)
class Share:
    """Part ``index`` (from 0) of ``count`` equal parts of a step's batch."""

    index: int = 0
    count: int = 1


WHOLE = Share()


@dataclass(frozen=True)
class Compute:
    """A process's device and its place among the others.

    Attributes:
        precision: of matrix products under `arithmetic`; weights and moments stay float32.
        micro_batch_size: sequences that fit on the device at a time; None: any number.
        rank, world_size: this process and their number.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: torch.dtype = torch.float32
    compile: bool = False
    micro_batch_size: int | None = None
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and talks to the user."""
        return self.rank == 0

    def shares(self, batch_size: int) -> list[Share]:
        """This process's parts of a batch of ``batch_size`` sequences, in order.

        Raises:
            InputError: there are more processes than sequences.
        """
        if self.world_size > batch_size:
            raise InputError(f"{self.world_size} processes cannot share a batch of {batch_size}; raise batch_size")
        own = -(-batch_size // self.world_size)
        pieces = 1 if self.micro_batch_size is None else -(-own // self.micro_batch_size)
        pieces = min(pieces, batch_size // self.world_size)
        return [Share(self.rank * pieces + piece, self.world_size * pieces) for piece in range(pieces)]

    def arithmetic(self) -> AbstractContextManager[Any]:
        """The context in which losses are computed."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on the device, its gradients averaged over all processes."""
        module.to(self.device)
        if self.world_size == 1:
            return module
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of the values over all processes."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def wait(self) -> None:
        """Until every process is here."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Leave the others, once every process is here."""
        if self.world_size > 1:
            self.wait()
            torch.distributed.destroy_process_group()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block first, the others find its files."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def from_main(self, value: Any = None) -> Any:
        """The main process's ``value``, in every process; the others' arguments are ignored."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


@contextmanager
def dismissing_others(compute: Compute) -> Iterator[None]:
    """In the main process: tell the others that all is over when the block ends.

    They wait in `Compute.from_main` and get None. After an interrupt they have stopped already,
    and after an unexpected error this process ends without a word, for which the launcher ends them.
    """
    try:
        yield
    except FlashDistillError:
        compute.from_main(None)
        compute.close()
        raise
    compute.from_main(None)
    compute.close()


def open_compute(settings: TrainingSettings) -> Compute:
    """The configured device; inside ``torchrun`` or ``accelerate launch`` it joins the others.

    Raises:
        InputError: the device or the precision is not to be had here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        device, rank, world_size = _device(settings.device), 0, 1
    else:
        device, rank, world_size = _join(settings.device)
    precision = _precision(settings.precision, device)
    return Compute(device, precision, settings.compile, settings.micro_batch_size, rank, world_size)


def _join(wanted: str) -> tuple[torch.device, int, int]:
    from accelerate import PartialState

    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"training.device: got {wanted}, but with several processes each takes a device of its own")
    state = PartialState(cpu=wanted == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    assert state.device is not None
    return state.device, state.process_index, state.num_processes


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= available[device.type]:
        raise InputError(f"training.device: got {wanted}, but PyTorch finds no such device here; set it to auto or cpu")
    return device


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "bfloat16" and not has_bfloat16(device):
        raise InputError(
            f"training.precision: got bfloat16, but this {device.type} has no instructions for it and would be many "
            "times slower than with float32; set it to auto or float32"
        )
    use = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda" and has_bfloat16(device))
    return torch.bfloat16 if use else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """True where bfloat16 products are computed in hardware and not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False
