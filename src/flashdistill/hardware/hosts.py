"""Where models are served and measured: this machine, or (`flashdistill.hardware.ssh`) another one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from flashdistill.core.errors import TargetError
from flashdistill.core.progress import Progress
from flashdistill.hardware.agent import Agent
from flashdistill.hardware.artifacts import copy_artifact
from flashdistill.hardware.lines import Answer, RunnerDiedError, last_words
from flashdistill.hardware.machine import Facts

_MODULE_SECONDS = 600.0


class Host(ABC):
    """A machine on which runners are started and models are kept.

    A kind of host says how to `start` one of our modules there, how to `ask` the agent there (see
    `flashdistill.hardware.agent.Agent.commands`), and how an artifact gets there and back. Paths on
    the host are strings, so that they are not taken for paths on this machine.

    All methods raise `TargetError` where the host cannot be reached or cannot do it, and
    `RunnerDiedError` where a connection was lost.

    Attributes:
        place: put before messages: ``on gpu-server: ``, or nothing for this machine.
    """

    place: str = ""

    @abstractmethod
    def start(
        self, module: str, arguments: Mapping[str, Any], variables: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a module there with one JSON argument, pipes for standard input and output, errors into ``log``."""

    @abstractmethod
    def ask(self, command: str, **arguments: object) -> Answer:
        """What the host's agent answers."""

    @abstractmethod
    def send(self, artifact: Path, key: str) -> str:
        """The path of a local artifact there; what is in the store under ``key`` is not sent again."""

    @abstractmethod
    def fetch(self, artifact: str, directory: Path) -> Path:
        """An artifact from there, in a local directory, which is made or replaced."""

    @abstractmethod
    def close(self) -> None:
        """Leave the host; no process of ours stays there. Safe to call twice."""

    def facts(self, device: str) -> Facts:
        """The machine's `fingerprint` and what its device is."""
        return self.ask("facts", device=device)

    def choose_cpus(self, threads: int) -> list[int]:
        """CPUs for one model."""
        return self.ask("choose_cpus", threads=threads)["cpus"]

    def is_busy(self) -> bool:
        """Whether others use the machine now."""
        return self.ask("look")["busy"]

    def store_path(self, key: str) -> str:
        """Where an entry of the store there is, or has to be."""
        return self.ask("locate", key=key)["path"]

    def tidy(self, keep: Collection[str]) -> None:
        """Delete the store's entries whose keys are not in ``keep``."""
        self.ask("tidy", keep=list(keep))

    @contextmanager
    def locked(self, device: str) -> Iterator[None]:
        """Hold the machine-wide lock of a device, waiting for it as long as needed."""
        self.ask("lock", device=device)
        try:
            yield
        finally:
            # With a lost connection the agent ends, and the kernel there releases its lock.
            with contextlib.suppress(RunnerDiedError, TargetError):
                self.ask("unlock")

    def ask_module(self, module: str, arguments: Mapping[str, Any], log: Path) -> Answer:
        """Run a module there that prints one JSON line, and return it.

        Raises:
            TargetError: it failed; with its last words.
        """
        process = self.start(module, arguments, {}, log)
        try:
            output, _ = process.communicate(timeout=_MODULE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"{self.place}{module} did not answer for {_MODULE_SECONDS:.0f} s") from error
        finally:
            end(process)
        try:
            return json.loads(output.splitlines()[-1])
        except (IndexError, ValueError) as error:
            status = f"exit status {process.returncode}"
            raise TargetError(f"{self.place}{module} gave no answer ({status}): {last_words(log)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalHost(Host):
    """The coordinator's own machine.

    Args:
        store: for what the runtime makes of models; need not exist.
        progress: told when the device's lock has to be waited for.
    """

    def __init__(self, store: Path, progress: Progress):
        self._agent = Agent(store, progress.message)

    def start(
        self, module: str, arguments: Mapping[str, Any], variables: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        # -P: a file of the user's that is called numpy.py must not be imported.
        words = [sys.executable, "-P", "-m", module, json.dumps(arguments)]
        return start_process(words, log, os.environ | dict(variables))

    def ask(self, command: str, **arguments: object) -> Answer:
        return self._agent.ask(command, **arguments)

    def send(self, artifact: Path, key: str) -> str:
        del key  # it is on this machine
        return str(artifact.resolve())

    def fetch(self, artifact: str, directory: Path) -> Path:
        return copy_artifact(Path(artifact), directory)

    def close(self) -> None:
        self._agent.unlock()


def start_process(words: list[str], log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A child with pipes for standard input and output, its errors in ``log``.

    It is in a session of its own: Ctrl-C reaches the coordinator, which ends its children in good order.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that a child is gone and its pipes are closed."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    if process.poll() is None:
        process.kill()
    process.wait()
