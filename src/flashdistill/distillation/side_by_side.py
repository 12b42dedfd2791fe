"""Several students beside one teacher: in step with each other, so that it answers once for all."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

from flashdistill.core.errors import InputError
from flashdistill.distillation.distill import Distillation, Distilled, Position
from flashdistill.training.interrupt import postponed_stop

_Running = dict[int, tuple[Position, Generator[Position, None, None]]]


def distill_side_by_side(builders: Sequence[Callable[[], Distillation]]) -> list[Distilled | Exception]:
    """Run or resume several distillations over the same signals, each time the one furthest behind.

    One that cannot be built, fails or is stopped early does not stop the others: its exception
    takes the place of its result.

    Raises:
        KeyboardInterrupt: the process was asked to stop; every distillation has its checkpoint.
        InputError, OSError: what has nothing to do with the candidates: a full disk, say.
    """
    results: dict[int, Distilled | Exception] = {}
    students: dict[int, Distillation] = {}
    with postponed_stop() as stop:
        running: _Running = {}
        for index, build in enumerate(builders):
            with _failure_noted(results, index):
                students[index] = build()
                running[index] = Position(0, 0), students[index].steps(stop)
        while running:
            index = min(running, key=lambda number: (running[number][0], number))
            _, steps = running.pop(index)
            try:
                with _failure_noted(results, index):
                    position = next(steps, None)
                    if position is None:
                        results[index] = students[index].result()
                    else:
                        running[index] = position, steps
                if index not in running:
                    del students[index]  # its moments and inputs are not needed any more
            except KeyboardInterrupt:
                _interrupt(running)
                raise
    return [results[index] for index in range(len(builders))]


@contextmanager
def _failure_noted(results: dict[int, Distilled | Exception], index: int) -> Iterator[None]:
    """What goes wrong in the block is the result of student ``index``, unless it is nobody's fault."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        results[index] = error


def _interrupt(running: _Running) -> None:
    """Let the others write their checkpoints, too."""
    for position, steps in running.values():
        if position > Position(0, 0):
            try:
                steps.throw(KeyboardInterrupt())
            except KeyboardInterrupt:
                continue
