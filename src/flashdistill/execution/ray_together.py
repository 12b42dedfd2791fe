"""One job in several processes of a Ray cluster that train together: Ray Train starts them, each knowing the others.

They find ``RANK``, ``WORLD_SIZE`` and a process group, as under ``torchrun``, so a job that can
share its work there can do it here; the first process's result counts. Where one of them is lost
all begin again, from the last checkpoint if they share a file system.
"""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashdistill.core.progress import Silent
from flashdistill.execution.child import Done, Forwarding, Message, RemoteProgress, portable
from flashdistill.execution.executor import Worker, WorkerLostError
from flashdistill.execution.settings import TrainingResources
from flashdistill.training.compute import PATIENCE


@dataclass(frozen=True)
class TogetherOrder:
    """A job for several processes.

    Attributes:
        work: its function, pickled.
        resources: of each process.
        losses: how often they may begin again.
        scratch: a directory on the file system that they share.
    """

    name: str
    work: bytes
    processes: int
    resources: TrainingResources
    threads: int
    losses: int
    scratch: Path
    initialise: Callable[[], None] | None


def do_together(order: TogetherOrder) -> Iterator[Message]:
    """Do a job; gives what its first process has to say as it goes, at last `Done`. For a task of its own."""
    from ray.util.queue import Queue

    mail = Queue(actor_options={"num_cpus": 0})
    threading.Thread(target=lambda: mail.put(_Ended(_failure(order, mail))), daemon=True).start()
    done = Done(error=WorkerLostError("its processes ended without a result"))
    while not isinstance(message := mail.get(), _Ended):
        if isinstance(message, Done):
            done = message
        else:
            yield message
    mail.shutdown()
    yield Done(error=message.failure) if message.failure else done


@dataclass(frozen=True)
class _Ended:
    """All processes are gone."""

    failure: WorkerLostError | None


def _failure(order: TogetherOrder, mail: Any) -> WorkerLostError | None:
    """Train; why there can be no result, if so."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": order.resources.num_cpus, "GPU": order.resources.num_gpus}
    order.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ray-train-", dir=order.scratch) as scratch:  # checkpoints are ours
        trainer = TorchTrainer(
            _take_part,
            train_loop_config={"order": order, "mail": mail},
            torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(
                num_workers=order.processes,
                use_gpu=order.resources.num_gpus > 0,
                resources_per_worker={kind: amount for kind, amount in resources.items() if amount},
            ),
            run_config=RunConfig(storage_path=scratch, failure_config=FailureConfig(max_failures=order.losses)),
        )
        try:
            trainer.fit()
        except Exception as error:
            return WorkerLostError(f"its processes failed: {' '.join(str(error).split())}")
    return None


def _take_part(config: dict[str, Any]) -> None:
    """What every process does; only the first one's result and progress count."""
    import torch

    order: TogetherOrder = config["order"]
    torch.set_num_threads(order.threads)
    if order.initialise is not None:
        order.initialise()
    if int(os.environ["RANK"]):
        pickle.loads(order.work)(Worker(Silent()))  # nosec B301  # from the driver, through Ray
        return
    tell = config["mail"].put
    logging.getLogger().addHandler(Forwarding(tell))
    try:
        tell(Done(pickle.loads(order.work)(Worker(RemoteProgress(tell)))))  # nosec B301  # the same
    except Exception as error:  # the job's own failure, for which nobody needs to begin again
        tell(Done(error=portable(error)))
