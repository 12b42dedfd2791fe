"""The session's end of a runner: starts it on a host, talks to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from flashdistill.hardware.hosts import Host
from flashdistill.hardware.lines import Conversation, pack, unpack
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.statistics import Block

_MODULE = "flashdistill.hardware.runner"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PREPARE_SECONDS = 3600.0

STEADY_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Asks the C library for huge pages, where the kernel offers them (``madvise`` or ``always``).

Spread over thousands of small pages, a model's weights fall into the caches differently in every
process, and its speed varies with that. In huge pages it varies by much less. Resident memory is
rounded up, so memory is measured without this.
"""


class RunnerProcess:
    """A process with one loaded model.

    It is started without waiting for it, so that two can start side by side:
    call `wait_until_ready` before anything else. Every call raises `TargetError` where the runner
    says why it cannot, and `RunnerDiedError` where it, or the connection to it, is gone.

    Args:
        host: where it runs.
        settings: the target.
        cpus: the CPUs to pin it to.
        directory: where its log goes; must exist.
        role: names its log and appears in messages (``candidate``, ``reference``).
        variables: added to the environment of the process.
    """

    def __init__(
        self,
        host: Host,
        settings: TargetSettings,
        cpus: Sequence[int],
        directory: Path,
        role: str,
        variables: Mapping[str, str] | None = None,
    ):
        self.role = role
        arguments = {"settings": settings.model_dump(mode="json"), "cpus": list(cpus)}
        environment = dict.fromkeys(_THREAD_VARIABLES, str(settings.threads)) | dict(variables or {})
        log = directory / f"runner-{role}.log"
        self._conversation = Conversation(
            host.start(_MODULE, arguments, environment, log), f"{role} runner", log, host.place
        )

    @property
    def pid(self) -> int:
        """Of this machine's process: the runner itself, or the connection to it."""
        return self._conversation.process.pid

    def wait_until_ready(self) -> None:
        """Return when the process has imported its runtime."""
        self._conversation.wait_until_ready()

    def prepare(self, artifact: str, directory: str) -> tuple[str, float]:
        """What the runtime makes of a model, all paths being the host's; the artifact to load and the seconds."""
        answer = self._conversation.ask("prepare", _PREPARE_SECONDS, artifact=artifact, directory=directory)
        return answer["artifact"], answer["seconds"]

    def load(self, artifact: str) -> tuple[float, int]:
        """Load a model from the host's path; the seconds it took and the bytes of its files."""
        answer = self._conversation.ask("load", artifact=artifact)
        return answer["seconds"], answer["artifact_bytes"]

    def infer(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The model's outputs for ``inputs``, which stay in place for `run`."""
        return list(unpack(self._conversation.ask("infer", inputs=pack(inputs))["outputs"]).values())

    def run(self, count: int) -> Block:
        """Time ``count`` calls in a row; the first, which finds cold caches, is dropped."""
        answer = self._conversation.ask("run", count=count)
        return Block.from_nanoseconds(answer["wall_ns"][1:], answer["cpu_ns"][1:])

    def statistics(self) -> dict[str, Any]:
        """The target's description and ``peak_memory_bytes`` since `load`."""
        return self._conversation.ask("statistics")

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._conversation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
