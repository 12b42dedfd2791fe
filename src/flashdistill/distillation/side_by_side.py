"""Several students beside one teacher: in step with each other, so that it answers once for all."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from flashdistill.core.errors import InputError
from flashdistill.distillation.distill import Distillation, Distilled, Position
from flashdistill.training.interrupt import postponed_stop

_Running = dict[int, tuple[Position, Generator[Position, None, None]]]


def distill_side_by_side(distillations: Sequence[Distillation]) -> list[Distilled | Exception]:
    """Run or resume several distillations over the same signals, each time the one furthest behind.

    One that fails does not stop the others: its exception takes the place of its result.

    Raises:
        KeyboardInterrupt: the process was asked to stop; every distillation has its checkpoint.
        InputError, OSError: what has nothing to do with the candidates: a full disk, say.
    """
    results: dict[int, Distilled | Exception] = {}
    with postponed_stop() as stop:
        running: _Running = {index: (Position(0, 0), one.steps(stop)) for index, one in enumerate(distillations)}
        while running:
            index = min(running, key=lambda number: (running[number][0], number))
            steps = running[index][1]
            try:
                running[index] = next(steps), steps
            except StopIteration:
                del running[index]
                results[index] = distillations[index].result()
            except KeyboardInterrupt:
                del running[index]
                _interrupt(running)
                raise
            except (InputError, OSError):
                raise
            except Exception as error:
                del running[index]
                results[index] = error
    return [results[index] for index in range(len(distillations))]


def _interrupt(running: _Running) -> None:
    """Let the others write their checkpoints, too."""
    for position, steps in running.values():
        if position > Position(0, 0):
            try:
                steps.throw(KeyboardInterrupt())
            except KeyboardInterrupt:
                continue
