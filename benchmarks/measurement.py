"""What a measurement costs, and what the runtimes make of the same student.

For every runtime and precision that works here: the seconds that one candidate of a search costs
(export, preparation, load, parity, measurement), and its latency as a ratio to eager PyTorch, the
two alternating in one comparison.

    python -m benchmarks.measurement --json measurement.json
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from flashdistill.console import ConsoleProgress
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import FlashDistillError
from flashdistill.core.files import write_json
from flashdistill.core.progress import Progress, Silent, tracked
from flashdistill.core.registry import load
from flashdistill.delivery.export import exported_encoder
from flashdistill.hardware.device_lock import device_lock
from flashdistill.hardware.hosts import LocalHost
from flashdistill.hardware.machine import contention, fingerprint
from flashdistill.hardware.parity import example_inputs
from flashdistill.hardware.protocol import Timer, compare
from flashdistill.hardware.runner_process import STEADY_MEMORY, RunnerProcess
from flashdistill.hardware.serving import ModelServer, ServedModel, load_model
from flashdistill.hardware.settings import TARGETS, TargetSettings
from flashdistill.hardware.targets.base import Inputs
from flashdistill.preflight import quiet_libraries
from flashdistill.scales import Scale

BASELINE = Architecture.parse("512_128_4_512_4")
EAGER = "torch"
WIDTH = 150
PHASES = ("export", "prepare", "load", "parity", "measure")


@dataclass(frozen=True)
class Row:
    """One runtime in one precision.

    Attributes:
        seconds: of a candidate's measurement by phase, and ``total`` as the search would wait for it.
        latency_ms, half_width_ms: with the half-width of the 95 % interval.
        to_eager: ratio of latencies, low and high end of its 95 % interval.
        parity_error: relative to the outputs' scale.
    """

    target: str
    seconds: dict[str, float]
    latency_ms: float
    half_width_ms: float
    noisy: bool
    to_eager: tuple[float, float, float]
    peak_memory_bytes: float
    artifact_bytes: float
    flops_utilization: float | None
    parity_error: float


def main() -> None:
    """Measure what works here, print a table, and why the rest does not."""
    arguments = parse()
    quiet_libraries()
    rows, missing = [], {}
    with tempfile.TemporaryDirectory() as work, ConsoleProgress() as progress:
        for target in arguments.targets:
            try:
                rows.append(measured(target, arguments, Path(work), progress))
            except FlashDistillError as error:
                missing[target] = str(error)
            if arguments.json:  # after each, so that an interrupted command leaves what it has
                write_json(arguments.json, record(rows, missing, arguments))
    show(rows, missing, arguments)


def record(rows: Sequence[Row], missing: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The results with what they were taken on."""
    machine = {**fingerprint(), "busy": contention().busy}
    facts = {"architecture": str(arguments.architecture), "blocks": arguments.blocks, "threads": arguments.threads}
    return {**facts, "machine": machine, "rows": list(map(asdict, rows)), "missing": missing}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", type=Architecture.parse, default=Architecture.parse("512_128_4_512_4"))
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument(
        "--targets",
        nargs="+",
        default=[
            EAGER,
            "torch:bfloat16",
            "torch-compile",
            "onnxruntime",
            "onnxruntime:int8",
            "openvino",
            "openvino:bfloat16",
            "openvino:int8",
        ],
        metavar="RUNTIME[:PRECISION]",
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def settings_of(target: str, arguments: argparse.Namespace) -> TargetSettings:
    runtime, _, precision = target.partition(":")
    return TargetSettings(
        runtime=runtime,
        precision=precision or "float32",  # type: ignore[arg-type]
        threads=arguments.threads,
        batch_size=arguments.batch_size,
        sequence_length=arguments.sequence_length,
    )


def measured(target: str, arguments: argparse.Namespace, work: Path, progress: Progress) -> Row:
    """A candidate after the baseline, as in a search; then the same candidate against eager PyTorch."""
    settings, family = settings_of(target, arguments), StudentFamily(num_blocks=arguments.blocks)
    scale = Scale(settings, family, BASELINE, work / "cache", work / target.replace(":", "-"), progress=progress)
    candidate = arguments.architecture
    try:
        with tracked(progress, f"{target}: the baseline"):
            scale.measure(BASELINE)
        # Another vocabulary makes the candidate new to the cache even where it is the baseline.
        other = StudentFamily(num_blocks=arguments.blocks, vocab_size=family.vocab_size - 1)
        with tracked(progress, f"{target}: a candidate"):
            begin = time.perf_counter()
            found = scale.measure(candidate, other)
            total = time.perf_counter() - begin
    finally:
        scale.close()
    latency = found["latency_ms"]
    seconds = {phase: float(latency.details[f"{phase}_seconds"] or 0) for phase in PHASES}
    with tracked(progress, f"{target} against {EAGER}"):
        ratio = against_eager(settings, arguments, family, work)
    utilization = found.get("flops_utilization")
    return Row(
        target,
        {**seconds, "total": total},
        latency.value,
        1.96 * (latency.stderr or 0.0),
        bool(latency.details["noisy"]),
        ratio,
        found["peak_memory_bytes"].value,
        found["artifact_bytes"].value,
        utilization.value if utilization else None,
        float(latency.details["parity_error"] or 0),
    )


def against_eager(
    settings: TargetSettings, arguments: argparse.Namespace, family: StudentFamily, work: Path
) -> tuple[float, float, float]:
    """The ratio to eager PyTorch with its 95 % interval, measured by the protocol of a search."""
    eager = settings_of(EAGER, arguments)
    inputs = example_inputs(settings, family.vocab_size, seed=0)
    sides = [
        side(one, role, arguments.architecture, family, work) for one, role in ((settings, "ours"), (eager, "eager"))
    ]
    clock = "cpu" if settings.threads == 1 else "wall"
    share = 1.0 if settings.threads == 1 else 0.0
    ours, theirs = (Timer(True, share, settings.measurement.block_ms) for _ in sides)

    @contextmanager
    def pair() -> Iterator[tuple[RunnerProcess, RunnerProcess]]:
        with opened(*sides[0], inputs) as candidate, opened(*sides[1], inputs) as reference:
            yield candidate, reference

    with device_lock("cpu"):
        precision = settings.measurement
        comparison = compare(pair, ours, theirs, precision, clock, tolerance=precision.tolerance)
    estimate = comparison.log_ratio
    low, high = estimate.mean - estimate.half_width, estimate.mean + estimate.half_width
    return math.exp(estimate.mean), math.exp(low), math.exp(high)


def side(
    settings: TargetSettings, role: str, architecture: Architecture, family: StudentFamily, work: Path
) -> tuple[ModelServer, ServedModel, TargetSettings]:
    """A model made ready on this machine for a runtime."""
    host = LocalHost(work / "store" / role, Silent())
    artifact_format = load(TARGETS, settings.runtime, "runtime").artifact
    artifact, _ = exported_encoder(architecture, family, work / "cache", artifact_format)
    cpus, reference = host.choose_cpus(settings.threads), (artifact, settings)
    server = ModelServer(host, host.facts(settings.device), cpus, work / "logs", reference)
    return server, server.make_ready(str(architecture), artifact, settings), settings


@contextmanager
def opened(
    server: ModelServer, model: ServedModel, settings: TargetSettings, inputs: Inputs
) -> Iterator[RunnerProcess]:
    with server.runner(settings.runtime, settings, STEADY_MEMORY) as runner:
        runner.wait_until_ready()
        load_model(runner, settings.runtime, model)
        runner.infer(inputs)
        yield runner


def show(rows: Sequence[Row], missing: dict[str, str], arguments: argparse.Namespace) -> None:
    console = Console(width=WIDTH)
    title = (
        f"{arguments.architecture}, {arguments.blocks} blocks, batch {arguments.batch_size} x "
        f"{arguments.sequence_length}, {arguments.threads} thread(s)"
    )
    table = Table(title=title, box=SIMPLE)
    for name in ("target", "latency ms", "ratio to eager [95 %]", "memory MB", "file MB", "parity", *PHASES, "total s"):
        table.add_column(name, justify="left" if name == "target" else "right")
    for row in rows:
        ratio, low, high = row.to_eager
        table.add_row(
            row.target,
            f"{row.latency_ms:.2f} ± {row.half_width_ms:.2f}" + (" noisy" if row.noisy else ""),
            f"{ratio:.3f} [{low:.3f}, {high:.3f}]",
            f"{row.peak_memory_bytes / 1e6:.0f}",
            f"{row.artifact_bytes / 1e6:.0f}",
            f"{row.parity_error:.1e}",
            *(f"{row.seconds[phase]:.2f}" for phase in PHASES),
            f"{row.seconds['total']:.1f}",
        )
    console.print(table)
    for target, reason in missing.items():
        console.print(f"left out: {target}: {reason}")


if __name__ == "__main__":
    main()
