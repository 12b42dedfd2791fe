"""What has to be asked on the machine that serves: its facts, its lock, its load, its store.

    python -P -m flashdistill.hardware.agent '{"study": name}'

On the coordinator's own machine the agent is an object in its process, elsewhere the process above,
which ends, and releases its lock, with the coordinator.

The store is a directory of one study, in which every entry is named by what it depends on: models
that were sent, and what the runtime made of them. Entries are complete or absent.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from pathlib import Path

from flashdistill.core.progress import Silent
from flashdistill.hardware.device_lock import device_lock, physical_device
from flashdistill.hardware.lines import Answer, Commands, converse
from flashdistill.hardware.machine import ContentionMeter, Facts, choose_cpus, fingerprint, gpus

_FORGOTTEN_AFTER_SECONDS = 7 * 24 * 3600
"""Unused for so long, the store of a study that was never finished is deleted."""


def package_version() -> str:
    """Of this package; a coordinator works with agents of its own version only."""
    try:
        return importlib.metadata.version("flashdistill")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def accelerator_facts(device: str) -> Facts:
    """``gpu_model`` and what else is known of a CUDA device; nothing for the CPU.

    A device that is given by a name, not by its number, is taken to be like the machine's first.
    """
    kind, _, number = physical_device(device).partition(":")
    if kind == "cpu":
        return {}
    found, index = gpus(), int(number) if number.isdigit() else 0
    if index >= len(found):
        return {"gpu_model": "unknown"}
    return {"gpu_model" if name == "name" else f"gpu_{name}": value for name, value in found[index].items()}


class Agent:
    """Answers for this machine.

    Args:
        store: where models and what is made of them are kept; need not exist.
        tell: hears that the device's lock has to be waited for.
    """

    def __init__(self, store: Path, tell: Callable[[str], None]):
        self._store = store
        self._tell = tell
        self._meter = ContentionMeter()
        self._held: ExitStack | None = None

    def ask(self, command: str, **arguments: object) -> Answer:
        """The answer to one command.

        Raises:
            TargetError: this machine cannot do it.
        """
        return self.commands()[command](**arguments)

    def commands(self) -> Commands:
        return {
            "version": lambda: {"version": package_version()},
            "facts": lambda device: {**fingerprint(), **accelerator_facts(device)},
            "choose_cpus": lambda threads: {"cpus": choose_cpus(threads)},
            "look": lambda: {"busy": self._meter.look().busy},
            "lock": self.lock,
            "unlock": self.unlock,
            "locate": self.locate,
            "tidy": self.tidy,
        }

    def lock(self, device: str) -> Answer:
        """Hold the device's lock, however long it has to be waited for."""
        assert self._held is None, "a measurement within a measurement"
        held = ExitStack()
        held.enter_context(device_lock(device, _Telling(self._tell)))
        self._held = held
        return {}

    def unlock(self) -> Answer:
        """Release it; nothing where it is not held."""
        held, self._held = self._held, None
        if held is not None:
            held.close()
        return {}

    def locate(self, key: str) -> Answer:
        """The ``path`` of an entry, and whether it is ``there``."""
        self._store.mkdir(parents=True, exist_ok=True)
        os.utime(self._store)
        path = self._store.resolve() / key
        return {"path": str(path), "there": path.exists()}

    def tidy(self, keep: Collection[str]) -> Answer:
        """Delete all entries but those in ``keep``, and the store itself where nothing is left."""
        for entry in self._store.iterdir() if self._store.exists() else ():
            if entry.name.partition(".")[0] in keep:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or never made
            self._store.rmdir()
        return {}


class _Telling(Silent):
    def __init__(self, tell: Callable[[str], None]):
        self._tell = tell

    def message(self, text: str) -> None:
        self._tell(text)


def remote_store(study: str) -> Path:
    """The store of a study on a machine that is not the coordinator's; forgotten ones are deleted."""
    stores = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "flashdistill", "serving")
    for other in stores.iterdir() if stores.exists() else ():
        if other.name != study and time.time() - other.stat().st_mtime > _FORGOTTEN_AFTER_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
    return stores / study


def main() -> None:
    study = json.loads(sys.argv[1])["study"]
    converse(lambda tell: Agent(remote_store(study), tell).commands())


if __name__ == "__main__":
    main()
