"""How long a method thinks about its next suggestion, given so many trials."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from benchmarks.search_replay.methods import METHODS
from benchmarks.search_replay.problems import ReplayProblem
from flashdistill.core.files import content_key, read_json, write_json
from flashdistill.core.seeds import generator

_SUGGESTIONS = 3


def thinking_seconds(name: str, problem: ReplayProblem, trials: int, work: Path) -> dict[str, float] | None:
    """CPU seconds of a suggestion after ``trials`` trials of architectures drawn at random.

    On one thread CPU seconds are those of an idle machine. The first suggestion of a new search
    fits everything from scratch; the median of three successive ones is closer to a search under way.

    Returns:
        ``median`` and ``first``, from disk where they were measured before; None where the space
        has too few architectures.

    Raises:
        ImportError: a package of the method is not installed.
    """
    if problem.space.size < trials + _SUGGESTIONS:
        return None
    method, place = METHODS[name], work / "timing" / problem.name / f"{name}-{trials}.json"
    key = content_key(problem.fingerprint, method.version(), trials)
    if place.exists() and (kept := read_json(place))["fingerprint"] == key:
        return kept["seconds"]
    searcher = method.open(problem, seed=0)
    drawn = problem.space.sample(trials - 1, generator("timing"), exclude=[problem.baseline])
    for number, architecture in enumerate([problem.baseline, *drawn]):
        searcher.tell(problem.run(architecture, number, seed=0))
    taken = []
    for number in range(trials, trials + _SUGGESTIONS):
        begun = time.process_time()
        architecture = searcher.suggest()
        taken.append(time.process_time() - begun)
        if architecture is None:
            break
        searcher.tell(problem.run(architecture, number, seed=0))
    seconds = {"median": round(statistics.median(taken), 4), "first": round(taken[0], 4)}
    write_json(place, {"fingerprint": key, "seconds": seconds})
    return seconds
