"""What need not be done twice: exported models and their measurements."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.files import content_key, read_sealed_json, sync_directory, write_sealed_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.trust import private_directory
from flashdistill.hardware.machine import Facts
from flashdistill.hardware.settings import TargetSettings

PROTOCOL_VERSION = 2
"""Raised when a change of the protocol makes earlier measurements incomparable."""


def artifact_key(architecture: Architecture, family: StudentFamily, runtime: str, *parts: object) -> str:
    """The name of an export with random weights; ``parts`` are further things it depends on."""
    return f"{architecture}-{content_key(str(architecture), dataclasses.asdict(family), runtime, *parts)}"


def measurement_key(
    architecture: Architecture,
    family: StudentFamily,
    baseline: tuple[Architecture, StudentFamily],
    settings: TargetSettings,
    machine: Facts,
) -> str:
    """The name of a measurement: everything that its value depends on.

    The rules for stopping (``target.measurement``) are not part of it: they change how well a
    value is known, not the value.

    Args:
        baseline: what it is measured against, and the family of that.
        machine: the facts of the machine that serves; see `Host.facts`.
    """
    return f"{architecture}-" + content_key(
        PROTOCOL_VERSION,
        [(str(model), dataclasses.asdict(model_family)) for model, model_family in ((architecture, family), baseline)],
        settings.identity(),
        [machine.get("cpus_allowed"), serving_identity(machine, settings.runtime)],
    )


def serving_identity(machine: Facts, runtime: str) -> Facts:
    """What of a machine decides how fast it serves: processor, accelerator, the runtime's versions."""
    family = runtime.partition("-")[0]
    versions = {name: value for name, value in machine.items() if name == family or name.startswith(f"{family}-")}
    hardware = ("machine_id", "cpu_model", "gpu_model", "gpu_driver")
    return {name: machine[name] for name in hardware if name in machine} | versions


def cached_artifact(root: Path, key: str, write: Callable[[Path], None], filename: str = "model.onnx") -> Path:
    """``root/key/filename``, made by ``write(path)`` where it does not exist.

    A directory of its own lets an exporter put weights beside the model. It appears complete or
    not at all, also with several processes making the same one: the first to finish wins.
    """
    final = Path(root, key)
    if (final / filename).exists():
        return final / filename
    private_directory(final.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=final.parent))
    try:
        write(temporary / filename)
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        try:
            temporary.rename(final)
        except OSError:  # another process was faster
            if not (final / filename).exists():
                raise
        sync_directory(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final / filename


class MeasurementCache:
    """Measurements as JSON files in a directory that runs may share."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def get(self, key: str) -> dict[str, Measurement] | None:
        """What was measured under ``key``; None where nothing was, or where the file is not what was written."""
        try:
            stored = read_sealed_json(self.root / f"{key}.json")
            return {name: Measurement(**value) for name, value in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return None  # absent or damaged: measuring again is always right

    def put(self, key: str, measurements: Mapping[str, Measurement]) -> None:
        """Keep ``measurements``; replaces what was there."""
        write_sealed_json(
            self.root / f"{key}.json", {name: dataclasses.asdict(value) for name, value in measurements.items()}
        )
