"""An actor on a Ray cluster that does jobs, each in a child process of its own.

So a job ends on a cluster as it does on one machine: a crash or too much memory is the job's
failure and not the actor's, and the next job finds everything imported. Only what takes the whole
actor with it, such as the loss of its machine, is Ray's to tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pickle
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashdistill.execution.child import Done, Forwarding, Interrupted, Message, RemoteProgress
from flashdistill.execution.executor import Job, Outcome, Surroundings, Worker
from flashdistill.execution.memory import GIB, limit_bytes
from flashdistill.execution.processes import ProcessExecutor
from flashdistill.execution.settings import ExecutionSettings, TrainingResources

Archive = Mapping[str, bytes]
"""The files of a directory by their names in it."""


@dataclass(frozen=True)
class Begins:
    """Sent first: the worker has a machine."""


@dataclass(frozen=True)
class Lacks:
    """Sent before the work: directories that the job needs and this machine has not."""

    directories: tuple[Path, ...]


@dataclass(frozen=True)
class PickledWork:
    """A job's function, unpickled in the process that calls it and nowhere on its way there."""

    data: bytes

    def __call__(self, worker: Worker) -> Any:
        return pickle.loads(self.data)(worker)  # nosec B301  # from the driver, which has Ray run anything it likes


class RayWorker:
    """One place on the cluster; its calls come from several threads.

    Args:
        settings: of the cluster's workers.
        logs: directory for what the processes print.
    """

    def __init__(
        self,
        settings: ExecutionSettings,
        logs: Path,
        preload: Sequence[str],
        initialise: Callable[[], None] | None,
    ):
        self._mail: queue.SimpleQueue[Message | Outcome] = queue.SimpleQueue()
        surroundings = Surroundings(logs, RemoteProgress(self._mail.put), tuple(preload), initialise)
        self._executor = ProcessExecutor(_for_one(settings), surroundings)
        self._suspended = contextlib.ExitStack()
        self._supplied = threading.Event()
        logging.getLogger().addHandler(Forwarding(self._mail.put))

    def do(self, name: str, work: bytes, needs: tuple[Path, ...]) -> Iterator[Message | Begins | Lacks]:
        """Do a job; gives what it has to say as it goes, at last `Done` or `Interrupted`."""
        yield Begins()
        if lacking := tuple(path for path in needs if not path.exists()):
            self._supplied.clear()
            yield Lacks(lacking)
            self._supplied.wait()
        self._executor.submit(Job(name, PickledWork(work)))
        threading.Thread(target=lambda: self._mail.put(self._executor.completed()), daemon=True).start()
        while True:
            item = self._mail.get()
            if not isinstance(item, Outcome):
                yield item
                if isinstance(item, Interrupted):
                    return
                continue
            yield Done(item.value, item.error)
            return

    def supply(self, archives: Mapping[Path, Any]) -> None:
        """What the job lacks, as references to archives."""
        import ray

        for directory, archive in archives.items():
            unpack(directory, ray.get(archive))
        self._supplied.set()

    def suspend(self, node: str) -> None:
        """Suspend the job if it runs on this node."""
        import ray

        if ray.get_runtime_context().get_node_id() == node:
            self._suspended.enter_context(self._executor.paused())

    def resume(self) -> None:
        self._suspended.close()

    def stop(self) -> None:
        """Let the job stop where it can go on later."""
        self._suspended.close()
        self._executor.close()
        self._mail.put(Interrupted())

    def process(self) -> int:
        """The actor's process."""
        return os.getpid()


def _for_one(settings: ExecutionSettings) -> ExecutionSettings:
    """The settings of a worker's child process, one at a time: its share of this machine."""
    wanted = settings.resources_per_training
    memory = settings.memory_gib or limit_bytes(None, _places_here(wanted)) / GIB
    threads = settings.threads or max(1, int(wanted.num_cpus))
    return ExecutionSettings.model_validate({"memory_gib": memory, "threads": threads, "retries": settings.retries})


def _places_here(wanted: TrainingResources) -> int:
    """How many trainings Ray would place on this machine."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    [has] = [node["Resources"] for node in ray.nodes() if node["NodeID"] == own]
    needs = {"CPU": wanted.num_cpus, "GPU": wanted.num_gpus}
    return max(1, min((int(has.get(kind, 0) / need) for kind, need in needs.items() if need), default=1))


def pack(directory: Path) -> Archive:
    """A directory's files."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def unpack(directory: Path, archive: Archive) -> None:
    """Make a directory of its files, complete or not at all; one that is there stays as it is."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f".{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker of this machine may need it too
        if directory.exists():
            return
        work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            for name, content in archive.items():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                (work / name).write_bytes(content)
            work.rename(directory)
        finally:
            shutil.rmtree(work, ignore_errors=True)
