"""Which serving runtimes are ready on this machine, and what the others lack.

    python -P -m flashdistill.hardware.runtimes '{"runtimes": ["openvino"], "devices": ["cpu"]}'

prints a JSON line for each runtime, a `RuntimeFacts` as a mapping. The runtimes are imported in a
process of their own: they are large, and one that crashes must not take the caller along.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashdistill.core.registry import load
from flashdistill.hardware.lines import take_standard_output
from flashdistill.hardware.settings import TARGETS, TargetSettings

_SECONDS = 60.0
_LAST_WORDS = 200


@dataclass(frozen=True)
class RuntimeFacts:
    """One runtime on this machine.

    Attributes:
        precisions: what it can serve here, by device type; empty where it cannot be used.
        lacking: why it does not serve a device type (``cuda``) or a precision of it
            (``cpu bfloat16``), in the words of its own error, which say what to install; nothing
            about devices that this machine has not, unless they are all that it serves on.
        offers: what the runtime itself lists: providers, devices.
    """

    runtime: str
    version: str | None = None
    precisions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)
    offers: Sequence[str] = ()

    @property
    def available(self) -> bool:
        return bool(self.precisions)


def look_at_runtimes(
    runtimes: Sequence[str], devices: Sequence[str] = ("cpu",), seconds: float = _SECONDS
) -> list[RuntimeFacts]:
    """What each runtime can do here, found out in another process; never raises for a runtime's sake.

    Args:
        devices: the device types that this machine has; on others a runtime is not tried.
        seconds: after which a runtime that does not answer counts as broken.
    """
    found: list[RuntimeFacts] = []
    while len(found) < len(runtimes):
        waiting = runtimes[len(found) :]
        lines, failure = _ask(waiting, devices, seconds)
        found += [RuntimeFacts(**json.loads(line)) for line in lines]
        if len(lines) < len(waiting):  # the next one has ended the process; go on after it
            found.append(RuntimeFacts(runtimes[len(found)], lacking={devices[0]: failure}))
    return found


def look_at_runtime(runtime: str, devices: Sequence[str]) -> RuntimeFacts:
    """The same in this process, which imports the runtime.

    Every precision is tried by making the target, whose constructor says what is missing.
    """
    precisions: dict[str, list[str]] = {}
    lacking: dict[str, str] = {}
    version: str | None = None
    for device, served in _declared(runtime).items():
        if device not in devices:
            continue
        failures: dict[str, str] = {}
        for precision in served:
            try:
                version = _try(runtime, device, precision)
                precisions.setdefault(device, []).append(precision)
            except Exception as error:  # of a broken installation: anything
                failures[precision] = str(error).strip() or type(error).__name__
        lacking |= _summary(device, served, failures)
    if not precisions and not lacking:
        lacking = {device: f"this machine has no {device} device" for device in _declared(runtime)}
    return RuntimeFacts(runtime, version, precisions, lacking, _offers(runtime) if precisions else ())


def _declared(runtime: str) -> Mapping[str, Sequence[str]]:
    return load(TARGETS, runtime, "runtime").precisions


def _try(runtime: str, device: str, precision: str) -> str:
    """Import the runtime as a runner would; returns its version."""
    settings = TargetSettings.model_validate({"runtime": runtime, "device": device, "precision": precision})
    return str(load(TARGETS, runtime, "runtime")(settings).describe()["runtime_version"])


def _summary(device: str, served: Sequence[str], failures: Mapping[str, str]) -> dict[str, str]:
    """One reason where all precisions fail for it, else one for each that fails."""
    if len(failures) == len(served) and len(set(failures.values())) == 1:
        return {device: next(iter(failures.values()))}
    return {f"{device} {precision}": reason for precision, reason in failures.items()}


def _onnxruntime_offers() -> list[str]:
    import onnxruntime

    return onnxruntime.get_available_providers()


def _openvino_offers() -> list[str]:
    import openvino

    return openvino.Core().available_devices


_OFFERS: Mapping[str, Callable[[], list[str]]] = {
    "onnxruntime": _onnxruntime_offers,
    "openvino": _openvino_offers,
}


def _offers(runtime: str) -> list[str]:
    return _OFFERS[runtime]() if runtime in _OFFERS else []


def _ask(runtimes: Sequence[str], devices: Sequence[str], seconds: float) -> tuple[list[str], str]:
    """The lines of a process that looks at the runtimes in turn, and why there are no more of them."""
    arguments = json.dumps({"runtimes": list(runtimes), "devices": list(devices)})
    command = [sys.executable, "-P", "-m", "flashdistill.hardware.runtimes", arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        return _whole_lines(text), f"did not answer for {seconds:.0f} s"
    code = done.returncode
    status = f"signal {-code}" if code < 0 else f"exit status {code}"
    words = done.stderr.strip()[-_LAST_WORDS:]
    return _whole_lines(done.stdout), f"importing it ends the process ({status})" + (f": {words}" if words else "")


def _whole_lines(text: str) -> list[str]:
    """Without what a process that was killed had begun to write."""
    return [line.rstrip("\n") for line in text.splitlines(keepends=True) if line.endswith("\n")]


def main(arguments: Mapping[str, Any]) -> None:
    answers = take_standard_output()
    for runtime in arguments["runtimes"]:
        try:
            facts = look_at_runtime(runtime, arguments["devices"])
        except Exception as error:  # its own module cannot be imported
            facts = RuntimeFacts(runtime, lacking={arguments["devices"][0]: f"{type(error).__name__}: {error}"})
        answers.write(json.dumps(dataclasses.asdict(facts)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
