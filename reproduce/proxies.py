"""Do parameters, FLOPs or a sum of per-block timings tell which student is faster? Measured latency decides.

The paper measures every candidate because it holds that proxies do not (sections 2 and 4.2). Here
architectures drawn from its design space (24 blocks) are measured on several serving runtimes,
and so are their single blocks; rank correlations with intervals and a plot say how far each proxy
can be trusted. What is measured already is in the cache: an interrupted command goes on.

    python reproduce/proxies.py --output runs/proxies
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from flashdistill.console import ConsoleProgress
from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.files import write_json
from flashdistill.core.progress import Progress
from flashdistill.core.seeds import generator
from flashdistill.delivery.plot_style import SERIES, style
from flashdistill.exploration.settings import SpaceSettings
from flashdistill.exploration.space import DesignSpace
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.statistics import kendall_tau
from flashdistill.models.parameter_count import count_parameters
from flashdistill.models.work import encoder_flops
from flashdistill.scales import Scale

BASELINE = Architecture.parse("512_128_4_512_4")
PROXIES = {
    "parameters": "Parameters of the blocks (millions)",
    "flops": "FLOPs (GFLOP)",
    "blocks": "Embeddings + 24 × one block (ms)",
}
ALIKE = 0.05
"""Architectures whose FLOPs differ by at most this share count as equal in FLOPs."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Runtime:
    """A target, and the scales on which whole students and their parts are weighed."""

    name: str
    whole: Scale
    parts: Scale


def main() -> None:
    """Measure what is missing, then draw and print everything."""
    arguments = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "measurements.json"
    with ConsoleProgress() as progress:
        rows = measure_all(arguments, progress)
    write_json(path, {"baseline": str(BASELINE), "rows": rows})
    summary = [correlations(rows, runtime) for runtime in arguments.runtimes]
    summary += [between(rows, first, second) for first, second in pairs(arguments.runtimes)]
    write_json(arguments.output / "correlations.json", summary)
    draw(rows, arguments.runtimes, arguments.output / "proxies.png")
    print_tables(summary)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/proxies"))
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/flashdistill").expanduser())
    parser.add_argument("--architectures", type=int, default=60)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="budget of one measurement")
    parser.add_argument("--tolerance", type=float, default=0.02, help="half-width of a ratio's 95 %% interval")
    return parser.parse_args()


def drawn(arguments: argparse.Namespace) -> list[Architecture]:
    """The baseline, and architectures drawn without repeats, the same in every run of this command."""
    space = DesignSpace(SpaceSettings.model_validate({"num_blocks": arguments.blocks}), StudentFamily())
    others = [architecture for architecture in space.table if architecture != BASELINE]
    chosen = generator("proxies").choice(len(others), size=arguments.architectures - 1, replace=False)
    return [BASELINE, *(others[index] for index in chosen)]


def opened(name: str, arguments: argparse.Namespace, progress: Progress) -> Runtime:
    """The scales of a runtime, written ``RUNTIME`` or ``RUNTIME:PRECISION``."""
    runtime, _, precision = name.partition(":")
    settings = TargetSettings.model_validate(
        {
            "runtime": runtime,
            "precision": precision or "float32",
            "threads": arguments.threads,
            "sequence_length": arguments.sequence_length,
            "measurement": {"seconds": arguments.seconds, "tolerance": arguments.tolerance, "patience_seconds": 1},
        }
    )
    family = StudentFamily(num_blocks=arguments.blocks)
    whole, parts = (
        Scale(
            settings,
            replace(family, num_blocks=depth),
            BASELINE,
            arguments.cache,
            arguments.output / "references" / f"{runtime}-{settings.precision}-{depth}",
            progress=progress,
        )
        for depth in (arguments.blocks, 1)
    )
    return Runtime(name, whole, parts)


def measure_all(arguments: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """A row per architecture and runtime, most of them from the cache if the command ran before."""
    architectures = drawn(arguments)
    rows = []
    for name in arguments.runtimes:
        runtime = opened(name, arguments, progress)
        task = f"measure on {name}"
        progress.start(task, len(architectures))
        for architecture in architectures:
            rows.append(row(runtime, architecture, arguments))
            progress.advance(task, note=f"{architecture} {rows[-1]['latency_ms']:.2f} ms")
        progress.finish(task)
        runtime.whole.close()
        runtime.parts.close()
    return rows


def row(runtime: Runtime, architecture: Architecture, arguments: argparse.Namespace) -> dict[str, Any]:
    """An architecture's latency on a runtime beside what each proxy says."""
    family = runtime.whole.family
    latency = runtime.whole.measure(architecture)["latency_ms"]
    one_block = runtime.parts.measure(architecture)["latency_ms"].value
    # Without blocks only the hidden size is left of an architecture.
    only_hidden = replace(BASELINE, hidden_size=architecture.hidden_size)
    embeddings = runtime.parts.measure(only_hidden, replace(family, num_blocks=0))["latency_ms"].value
    without_tables = replace(family, vocab_size=0, max_positions=0, type_vocab_size=0)
    return {
        "architecture": str(architecture),
        "runtime": runtime.name,
        "latency_ms": latency.value,
        "stderr_ms": latency.stderr,
        "seconds": latency.details.get("measure_seconds"),
        "parameters": count_parameters(architecture, without_tables),
        "flops": encoder_flops(architecture, family, 1, arguments.sequence_length),
        "blocks": embeddings + family.num_blocks * (one_block - embeddings),
    }


def columns(rows: Sequence[dict[str, Any]], runtime: str, *names: str) -> list[np.ndarray]:
    chosen = sorted((row for row in rows if row["runtime"] == runtime), key=lambda row: row["architecture"])
    return [np.array([row[name] for row in chosen], dtype=float) for name in names]


def correlations(rows: Sequence[dict[str, Any]], runtime: str) -> dict[str, Any]:
    """Rank correlations of every proxy with the latency; how much latency differs at equal FLOPs."""
    latency, error, flops = columns(rows, runtime, "latency_ms", "stderr_ms", "flops")
    found: dict[str, Any] = {"runtime": runtime, "architectures": len(latency)}
    for proxy in PROXIES:
        (values,) = columns(rows, runtime, proxy)
        found[proxy] = {
            "kendall": with_interval(kendall_tau, values, latency),
            "spearman": with_interval(spearman_rho, values, latency),
            "worst_regret": worst_regret(values, latency),
        }
    alike = np.abs(np.log(flops[:, None] / flops)) <= np.log1p(ALIKE)
    ratios = np.exp(np.abs(np.log(latency[:, None] / latency)))[alike & ~np.eye(len(latency), dtype=bool)]
    found["ratio_at_equal_flops"] = {"median": float(np.median(ratios)), "largest": float(ratios.max())}
    found["relative_error"] = float(np.median(error / latency))
    return found


def spearman_rho(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of the ranks."""
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def with_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float], first: np.ndarray, second: np.ndarray
) -> dict[str, float]:
    """A statistic with its 95 % bootstrap interval over architectures."""
    random = generator("bootstrap")
    draws = []
    for _ in range(RESAMPLES):
        chosen = random.integers(0, len(first), len(first))
        draws.append(statistic(first[chosen], second[chosen]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": statistic(first, second), "low": float(low), "high": float(high)}


def worst_regret(proxy: np.ndarray, latency: np.ndarray) -> float:
    """The largest ratio of latencies between two architectures that the proxy puts in the wrong order."""
    wrong = (proxy[:, None] < proxy) & (latency[:, None] > latency)
    return float((latency[:, None] / latency)[wrong].max(initial=1.0))


def pairs(runtimes: Sequence[str]) -> list[tuple[str, str]]:
    return [(first, second) for index, first in enumerate(runtimes) for second in runtimes[index + 1 :]]


def between(rows: Sequence[dict[str, Any]], first: str, second: str) -> dict[str, Any]:
    """How far one runtime's latencies rank as another's."""
    [here], [there] = columns(rows, first, "latency_ms"), columns(rows, second, "latency_ms")
    tau = with_interval(kendall_tau, here, there)
    return {"runtimes": [first, second], "kendall": tau, "worst_regret": worst_regret(here, there)}


def draw(rows: Sequence[dict[str, Any]], runtimes: Sequence[str], path: Path) -> None:
    """One row of panels per runtime, one column per proxy."""
    scale = {"parameters": 1e-6, "flops": 1e-9, "blocks": 1.0}
    color = next(iter(SERIES))
    with style():
        figure, panels = plt.subplots(
            len(runtimes), len(PROXIES), figsize=(10.5, 3.1 * len(runtimes)), squeeze=False, layout="constrained"
        )
        for runtime, line in zip(runtimes, panels, strict=True):
            for proxy, axes in zip(PROXIES, line, strict=True):
                values, latency, error = columns(rows, runtime, proxy, "latency_ms", "stderr_ms")
                axes.errorbar(
                    values * scale[proxy], latency, 1.96 * error, fmt="o", ms=3.5, lw=0.8, color=color, alpha=0.85
                )
                axes.set_xlabel(PROXIES[proxy])
                axes.set_ylim(bottom=0)
                axes.set_xlim(left=0)
                tau = kendall_tau(values, latency)
                axes.text(0.05, 0.92, f"τ = {tau:.2f}", transform=axes.transAxes)
            line[0].set_ylabel(f"{runtime}\nlatency (ms)")
        count = len({row["architecture"] for row in rows})
        figure.suptitle(f"Measured latency of {count} students against three proxies")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def print_tables(summary: Sequence[dict[str, Any]]) -> None:
    console = Console(width=120)
    table = Table(title="Rank correlation with measured latency (95 % interval)")
    for name in ("runtime", "proxy", "Kendall τ", "Spearman ρ", "worst regret"):
        table.add_column(name)
    for found in summary:
        for proxy in PROXIES if "runtime" in found else ():
            item = found[proxy]
            table.add_row(
                found["runtime"],
                proxy,
                shown(item["kendall"]),
                shown(item["spearman"]),
                f"{item['worst_regret']:.2f} x",
            )
    console.print(table)
    for found in summary:
        if "runtimes" in found:
            console.print(
                f"{' and '.join(found['runtimes'])}: τ {shown(found['kendall'])}, "
                f"worst regret {found['worst_regret']:.2f} x"
            )
        else:
            alike = found["ratio_at_equal_flops"]
            console.print(
                f"{found['runtime']}: at equal FLOPs (within {ALIKE:.0%}) latencies differ by "
                f"{alike['median']:.2f} x in the median, {alike['largest']:.2f} x at most; "
                f"a latency's own error is {found['relative_error']:.2%}"
            )


def shown(item: dict[str, float]) -> str:
    return f"{item['value']:.3f} [{item['low']:.3f}, {item['high']:.3f}]"


if __name__ == "__main__":
    main()
