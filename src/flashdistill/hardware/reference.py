"""The one latency that all latencies of a study are multiples of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flashdistill.core.errors import TargetError
from flashdistill.core.files import read_json, write_json
from flashdistill.hardware.artifacts import artifact_bytes
from flashdistill.hardware.cache import serving_identity
from flashdistill.hardware.machine import Facts
from flashdistill.hardware.settings import TargetSettings


class ReferenceLatency:
    """Kept in a file with what it depends on, so that a resumed study goes on with the same value.

    Args:
        path: the file; need not exist yet.
        settings: the target.
        artifact: the reference model.
        machine: the facts of the machine that serves.
    """

    def __init__(self, path: Path, settings: TargetSettings, artifact: Path, machine: Facts):
        self.path = path
        self._settings, self._artifact, self._machine = settings, artifact, machine
        self._value: float | None = None

    @property
    def milliseconds(self) -> float | None:
        """The value; None until it is known.

        Raises:
            TargetError: it was measured on another machine, runtime or model.
        """
        if self._value is None and self.path.exists():
            stored = read_json(self.path)
            self._check(stored["identity"])
            self._value = float(stored["latency_ms"])
        return self._value

    def keep(self, milliseconds: float, facts: Mapping[str, object]) -> None:
        """Fix the value; ``facts`` say where it comes from."""
        write_json(self.path, {"latency_ms": milliseconds, **facts, "identity": self.identity()})
        self._value = milliseconds

    def identity(self) -> dict[str, object]:
        """What the value depends on: the model's graph, not its weights, hence its size."""
        return {
            **self._settings.identity(),
            **serving_identity(self._machine, self._settings.runtime),
            "artifact_bytes": artifact_bytes(self._artifact),
        }

    def _check(self, stored: Mapping[str, object]) -> None:
        changed = [
            f"{field} was {stored.get(field)}, is {value}"
            for field, value in self.identity().items()
            if stored.get(field) != value
        ]
        if changed:
            raise TargetError(
                f"the latencies of this study refer to a reference that was measured elsewhere ({self.path}): "
                f"{'; '.join(changed)}. Resume where the study began, or start a new one"
            )
