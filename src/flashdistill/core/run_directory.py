"""The directory of one run: where its files are, whose it is, and who works in it now.

RUN/
  config.yaml        the resolved configuration, with versions
  requested.yaml     the configuration as it was given; it decides whose directory this is
  state.json         what a resumed run must know: identity, step counts, costs
  study.db           the trials (Optuna)
  prior.json         what another run found out, as it was when this one began (search.warm_start)
  candidates/ARCH/   flash/, regular/ and confirm-N/: checkpoints in training, learning curves
  audit.json         whether flash ranks as regular distillation does; audit/ has each training's scores
  tasks.json         what the models are worth on tasks; tasks/ has the fine-tuned ones
  measurements/      the reference's latency and the runner's logs
  signals/           the teacher's answers to the search's batches, removed at the end
  models/ARCH/       delivered students
  report.html  results.json  plots/  log.txt
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.files import read_json, write_json
from flashdistill.core.trust import private_directory


class RunDirectory:
    """The paths of a run and its small persistent state; see the module for the layout."""

    def __init__(self, path: Path):
        self.path = Path(path)

    config = property(lambda self: self.path / "config.yaml")
    requested = property(lambda self: self.path / "requested.yaml")
    study = property(lambda self: self.path / "study.db")
    prior = property(lambda self: self.path / "prior.json")
    measurements = property(lambda self: self.path / "measurements")
    signals = property(lambda self: self.path / "signals")
    models = property(lambda self: self.path / "models")
    log = property(lambda self: self.path / "log.txt")

    def candidate(self, architecture: Architecture) -> Path:
        return self.path / "candidates" / str(architecture)

    def model(self, architecture: Architecture) -> Path:
        return self.models / str(architecture)

    def create(self) -> None:
        """Make the directory, for its owner alone; one that is there keeps its mode.

        Raises:
            RunDirectoryError: it cannot be made or written to.
        """
        try:
            private_directory(self.path)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "not writable")
        except OSError as error:
            raise RunDirectoryError(
                f"the output directory {self.path} cannot be used ({error.strerror}); choose another with --output"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that works in this directory; the system frees the lock of a dead one.

        Raises:
            RunDirectoryError: another process works in it; names that process.
        """
        with (self.path / ".lock").open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise RunDirectoryError(
                    f"{self.path} is in use by {holder}; wait for it, stop it, or choose another --output"
                ) from error
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {os.uname().nodename}")
            lock.flush()
            yield

    def state(self) -> dict[str, Any]:
        """What was remembered; empty for a new run.

        Raises:
            RunDirectoryError: the file is damaged.
        """
        path = self.path / "state.json"
        if not path.exists():
            return {}
        try:
            return read_json(path)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunDirectoryError(
                f"{path} is damaged ({error}); restore it from a backup, or start again in a new output directory"
            ) from error

    def remember(self, **values: Any) -> None:
        """Add to the persistent state."""
        write_json(self.path / "state.json", self.state() | values)
