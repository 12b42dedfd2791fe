"""Jobs on a Ray cluster: training where there are processors for it, measuring on nodes that serve.

A node says that it is the hardware that serves by the resource ``serving``:

    ray start --address HEAD --num-cpus 0 --resources '{"serving": 1}'

The driver, this process, owns the study; workers have none of it. Each of ``workers`` places is an
actor that holds the resources of one training. A job whose worker is lost with its machine begins
again on another, from its last checkpoint if the run's directory is on a shared file system.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashdistill.execution.child import Done, Interrupted, Logged, Told
from flashdistill.execution.executor import Job, Outcome, ServingExecutor, Surroundings, WorkerLostError
from flashdistill.execution.processes import GRACE_SECONDS, sigterm_interrupts
from flashdistill.execution.ray_connection import connect
from flashdistill.execution.ray_together import TogetherOrder, do_together
from flashdistill.execution.ray_worker import Begins, Lacks, RayWorker, pack
from flashdistill.execution.reports import Reports
from flashdistill.execution.settings import ExecutionSettings

SERVING = "serving"
"""The resource of nodes on which models are measured."""

LOSSES = 3
"""How often a job may lose its worker with the machine before that counts as the job's fault."""

_CALLS_AT_A_TIME = 4
"""To an actor: the job, and what must reach it meanwhile."""

_PROMPT_SECONDS = 5.0
"""In which every working actor answers."""


@dataclass(frozen=True)
class _Order:
    job: Job
    work: bytes
    begun: float
    losses: int = 0


@dataclass
class _Running:
    """An order on an actor.

    Attributes:
        actor: None where several processes train together.
        messages: a stream of references to what `RayWorker.do` or `do_together` gives.
        begun: something has come.
        loss: how its worker was lost; empty as long as it is not.
    """

    order: _Order
    actor: Any
    messages: Any
    reports: Reports
    begun: bool = False
    loss: str = ""


class RayExecutor(ServingExecutor):
    """Jobs on the actors of a Ray cluster, ``workers`` at a time."""

    apart = True

    def __init__(self, settings: ExecutionSettings, surroundings: Surroundings):
        """Connect to the cluster; without an address one is started on this machine.

        Raises:
            InputError: Ray is not installed, or the cluster is out of reach or too small.
        """
        self.places = settings.workers
        self._settings, self._surroundings = settings, surroundings
        self._ray, self._own = connect(settings, surroundings)
        self._former_handler = sigterm_interrupts()
        self.serves = self._ray.cluster_resources().get(SERVING, 0) >= 1
        self._node = self._ray.get_runtime_context().get_node_id()
        self._waiting: deque[_Order] = deque()
        self._to_serve: deque[_Order] = deque()
        self._running: dict[int, _Running] = {}
        self._actors: dict[int, Any] = {}
        self._server: Any = None
        self._packed: dict[Path, Any] = {}
        self._closed = False

    def submit(self, job: Job) -> None:
        self._waiting.append(_Order(job, pickle.dumps(job.work), time.monotonic()))
        self._fill_places()

    def completed(self) -> Outcome:
        while True:
            self._fill_places()
            if not self._running:
                raise RuntimeError("no job was submitted")
            places = {one.messages: place for place, one in self._running.items()}
            [ready], _ = self._ray.wait(list(places), num_returns=1)
            one = self._running[places[ready]]
            outcome = self._advance(one)
            if outcome is not None or one.loss:
                del self._running[places[ready]]
            if one.loss:
                self._give_up(self._actors.pop(places[ready], None))
                outcome = self._after_loss(one)
            if outcome is not None:
                return outcome

    def serve(self, job: Job) -> Outcome:
        self._to_serve.append(_Order(job, pickle.dumps(job.work), time.monotonic()))
        while True:
            if self._server is None:
                self._server = self._new_actor(num_cpus=0, resources={SERVING: 1})
            one = self._start(self._to_serve.pop(), self._server)
            outcome = None
            while outcome is None and not one.loss:
                outcome = self._advance(one)
            if one.loss:
                self._give_up(self._server)
                self._server, outcome = None, self._after_loss(one, self._to_serve)
            if outcome is not None:
                return outcome

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Of the cluster's workers those on this machine, the driver's."""
        working = self._working()
        self._wait_for([actor.suspend.remote(self._node) for actor in working], _PROMPT_SECONDS)
        try:
            yield
        finally:
            self._wait_for([actor.resume.remote() for actor in working], _PROMPT_SECONDS)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._waiting.clear()
            self._wait_for([actor.stop.remote() for actor in self._working()], GRACE_SECONDS)
        finally:
            for actor in [*self._actors.values(), self._server]:
                self._give_up(actor)
            for one in self._running.values():
                if one.actor is None:  # processes that train together go on from their last checkpoint
                    self._ray.cancel(one.messages)
            if self._own:
                self._ray.shutdown()
            if self._former_handler is not None:
                signal.signal(signal.SIGTERM, self._former_handler)

    def _fill_places(self) -> None:
        for place in range(self.places):
            if not self._waiting:
                return
            if place in self._running:
                continue
            order = self._waiting.popleft()
            if order.job.processes > 1:
                self._free_resources(place)
                self._running[place] = self._start_together(order)
                continue
            if place not in self._actors:
                wanted = self._settings.resources_per_training
                self._actors[place] = self._new_actor(num_cpus=wanted.num_cpus, num_gpus=wanted.num_gpus)
            self._running[place] = self._start(order, self._actors[place])

    def _new_actor(self, **resources: Any) -> Any:
        surroundings, actor = self._surroundings, self._ray.remote(RayWorker)
        return actor.options(max_concurrency=_CALLS_AT_A_TIME, **resources).remote(
            self._settings, surroundings.logs.absolute(), surroundings.preload, surroundings.initialise
        )

    def _give_up(self, actor: Any) -> None:
        if actor is not None:
            with contextlib.suppress(Exception):  # it may be gone already
                self._ray.kill(actor)

    def _free_resources(self, place: int) -> None:
        """Give back what a place's actor holds, and those of all idle places: several processes need it."""
        for idle in [place, *(other for other in self._actors if other not in self._running)]:
            if (actor := self._actors.pop(idle, None)) is not None:
                self._give_up(actor)

    def _start_together(self, order: _Order) -> _Running:
        together = TogetherOrder(
            order.job.name,
            order.work,
            order.job.processes,
            self._settings.resources_per_training,
            self._settings.threads or max(1, int(self._settings.resources_per_training.num_cpus)),
            LOSSES,
            self._surroundings.logs.absolute(),
            self._surroundings.initialise,
        )
        task = self._ray.remote(do_together).options(num_cpus=0, max_retries=0, num_returns="streaming")
        return _Running(order, None, task.remote(together), Reports(self._surroundings.progress))

    def _start(self, order: _Order, actor: Any) -> _Running:
        stream = actor.do.options(num_returns="streaming").remote(order.job.name, order.work, order.job.needs)
        return _Running(order, actor, stream, Reports(self._surroundings.progress))

    def _advance(self, one: _Running) -> Outcome | None:
        """Wait for the next message; the job's outcome if it was the last."""
        from ray.exceptions import RayError, RayTaskError

        seconds = time.monotonic() - one.order.begun
        try:
            message = self._ray.get(next(one.messages))
        except RayTaskError as error:  # our own code has failed there
            return Outcome(one.order.job, error=error, seconds=seconds)
        except StopIteration:
            one.loss = "it ended without a word"
            return None
        except RayError as error:
            one.loss = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
            return None
        one.begun = True
        match message:
            case Begins():
                pass
            case Told() | Logged():
                one.reports.show(message)
            case Lacks(directories):
                one.actor.supply.remote({path: self._archive(path) for path in directories})
            case Done(value, error):
                one.reports.end()
                return Outcome(one.order.job, value, error, seconds)
            case Interrupted():
                one.loss = "it was stopped"
        return None

    def _after_loss(self, one: _Running, queue: deque[_Order] | None = None) -> Outcome | None:
        """Put the job to the head of its queue, to begin again elsewhere; or its failure, after too many losses."""
        one.reports.end()
        order, queue = one.order, self._waiting if queue is None else queue
        if order.losses == LOSSES:
            error = WorkerLostError(f"lost its worker {LOSSES + 1} times, lastly: {one.loss}")
            return Outcome(order.job, error=error, seconds=time.monotonic() - order.begun)
        self._surroundings.progress.message(
            f"{order.job.name}: its worker is lost ({one.loss}); beginning again elsewhere"
        )
        queue.appendleft(dataclasses.replace(order, losses=order.losses + 1))
        return None

    def _archive(self, directory: Path) -> Any:
        """A directory in Ray's object store."""
        if directory not in self._packed:
            self._packed[directory] = self._ray.put(pack(directory))
        return self._packed[directory]

    def _working(self) -> list[Any]:
        """The actors that have a machine and do a job; others would not answer."""
        return [
            one.actor
            for one in self._running.values()
            if one.actor is not None and (one.begun or self._ray.wait([one.messages], timeout=0)[0])
        ]

    def _wait_for(self, calls: list[Any], seconds: float) -> None:
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=seconds)
