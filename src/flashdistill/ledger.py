"""What a run has cost so far, kept in its directory."""

from __future__ import annotations

from collections.abc import Mapping

from flashdistill.core.run_directory import RunDirectory


class Ledger:
    """Wall seconds of a run by phase.

    Attributes:
        costs: by phase; over all processes that have worked in the directory.
        worked: whether this process has trained or measured anything.
    """

    def __init__(self, directory: RunDirectory):
        self._directory = directory
        self.costs: dict[str, float] = dict(directory.state().get("costs", {}))
        self.worked = False

    def charge(self, costs: Mapping[str, float], training: str) -> None:
        """Add a candidate's costs; its ``distill`` counts as the kind of training, ``flash distillation`` say."""
        self.worked = True
        for phase, seconds in costs.items():
            name = training if phase == "distill" else phase
            self.costs[name] = self.costs.get(name, 0.0) + seconds
        self.save()

    def save(self) -> None:
        """Write what the dictionary holds to the run directory."""
        self._directory.remember(costs=self.costs)
