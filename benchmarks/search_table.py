"""A complete design space, really distilled and really measured: what searches are replayed on.

Every architecture of the space in ``benchmarks/search/table.yaml`` is flash-distilled with one
seed, some of them with further seeds, so that the noise is known, and measured on the target.
Everything is kept as it comes, one small file for each, so the work can be stopped at any moment
and divided among processes; what is in the Parquet files already is not made again.

    python -m benchmarks.search_table distil  --work DIR [--shard 1/2]   # accuracies; hours
    python -m benchmarks.search_table measure --work DIR                 # latencies; wants a quiet machine
    python -m benchmarks.search_table write   --work DIR                 # Parquet into benchmarks/search/
"""

from __future__ import annotations

import argparse
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flashdistill.config import RunConfig, load_config
from flashdistill.console import ConsoleProgress
from flashdistill.core.architecture import FACTORS, Architecture
from flashdistill.core.files import read_json, write_json
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Silent
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.seeds import derive_seed, generator
from flashdistill.distillation.distill import Distillation
from flashdistill.distillation.teacher_preparation import prepare_teacher
from flashdistill.evaluation.pretraining_accuracy import pretraining_accuracy, student_predictor
from flashdistill.exploration.space import DesignSpace
from flashdistill.hardware.machine import fingerprint, versions
from flashdistill.preflight import quiet_libraries
from flashdistill.training.compute import open_compute
from flashdistill.workbench import Workbench

HERE = Path(__file__).parent / "search"
SHARES = (0.25, 0.5, 0.75)
"""Of the pre-training steps; a student is scored there on the way."""

SEEDED, FURTHER_SEEDS = 24, 3
"""How many architectures, beside the baseline, are distilled again, and how often."""

Job = tuple[Architecture, int]


def main() -> None:
    arguments = _parse()
    quiet_libraries()
    config = load_config(HERE / "table.yaml", [f"output={arguments.work / 'run'}"])
    {"distil": distil, "measure": measure, "write": write}[arguments.what](config, arguments)


def distil(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Distil what this shard has to do and has not done."""
    index, shards = arguments.shard
    directory = RunDirectory(arguments.work / f"shard-{index}-of-{shards}")
    directory.create()
    compute = open_compute(config.training)
    with ConsoleProgress() as progress:
        prepared = prepare_teacher(config.teacher, config.corpus, config.cache_directory, progress, compute)
    bench = Workbench(config, directory, prepared, Silent(), compute)
    space = DesignSpace(config.space, bench.family)
    todo = jobs(space, config)[index - 1 :: shards]
    todo = [job for job in todo if not _known(_result(arguments.work, job), "table")]
    print(f"{len(todo)} students to distil", flush=True)
    for number, job in enumerate(todo, start=1):
        found = distilled(bench, *job)
        write_json(_result(arguments.work, job), found)
        print(
            f"{number} of {len(todo)}: {job[0]} seed {job[1]}: mlm_accuracy {found['mlm_accuracy']:.4f}, "
            f"{found['train_seconds']:.1f} s",
            flush=True,
        )


def jobs(space: DesignSpace, config: RunConfig) -> list[Job]:
    """Every architecture with seed 0 in random order, those with further seeds among the first."""
    order = [config.baseline, *(a for a in space.shuffled(generator("search table")) if a != config.baseline)]
    seeded = order[: SEEDED + 1]
    again = [(architecture, seed) for architecture in seeded for seed in range(1, FURTHER_SEEDS + 1)]
    return [*((architecture, 0) for architecture in seeded), *again, *((a, 0) for a in order[SEEDED + 1 :])]


def distilled(bench: Workbench, architecture: Architecture, seed: int) -> dict[str, Any]:
    """The scores of one student, at the end and on the way, and its cost."""
    settings, begin, scoring = bench.config.flash, time.perf_counter(), 0.0
    first = bench.distillation(architecture, settings, None, str(architecture))
    distillation = first if seed == 0 else _reseeded(bench, first, seed)
    last = len(distillation.phase_names) - 1
    checkpoints = {round(share * (settings.pretraining_steps or 0)): share for share in SHARES}
    found: dict[str, Any] = {}
    for position in distillation.steps():
        if position.phase == last and (share := checkpoints.get(position.step + 1)):
            pause = time.perf_counter()
            found[f"accuracy_{share:.0%}".rstrip("%")] = _scores(bench, distillation)["mlm_accuracy"].value
            scoring += time.perf_counter() - pause
    seconds = time.perf_counter() - begin - scoring
    scores = _scores(bench, distillation)
    return {
        **{name: scores[name].value for name in ("mlm_accuracy", "mlm_loss", "nsp_accuracy")},
        "mlm_accuracy_stderr": scores["mlm_accuracy"].stderr,
        **found,
        "train_seconds": seconds,
    }


def _reseeded(bench: Workbench, other: Distillation, seed: int) -> Distillation:
    return Distillation(
        other.architecture,
        other.family,
        other.signals,
        other.settings,
        derive_seed(bench.config.seed, "student", other.architecture, "repeat", seed),
        other.compute,
    )


def _scores(bench: Workbench, distillation: Distillation) -> dict[str, Measurement]:
    """Accuracy as it is now; the training goes on as if nothing had happened."""
    student = distillation.student
    training = student.training
    student.eval()
    try:
        return pretraining_accuracy(
            student_predictor(student, with_nsp=True), bench.pretraining_data.validation_batches(64)
        )
    finally:
        student.train(training)


def measure(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Measure every architecture against the baseline."""
    directory = RunDirectory(arguments.work / "run")
    directory.create()
    with ConsoleProgress() as progress:
        prepared = prepare_teacher(
            config.teacher, config.corpus, config.cache_directory, progress, open_compute(config.training)
        )
        bench = Workbench(config, directory, prepared, progress)
        space = DesignSpace(config.space, bench.family)
        order = dict.fromkeys(architecture for architecture, _ in jobs(space, config))
        for number, architecture in enumerate(order, start=1):
            place = _latency(arguments.work, architecture)
            if _known(place, "latency"):
                continue
            latency = bench.scales.measure(architecture)["latency_ms"]
            kept = {name: latency.details.get(name) for name in ("ratio", "ratio_stderr", "passes", "noisy")}
            write_json(
                place,
                {"latency_ms": latency.value, "latency_stderr": latency.stderr, "samples": latency.samples, **kept},
            )
            print(f"{number} of {len(order)}: {architecture}: {latency.value:.3f} ms", flush=True)
        bench.scales.close()


def write(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Collect what there is into Parquet files, with where it comes from."""
    family = config.student_family(config.teacher.vocabulary or 0)
    space = DesignSpace(config.space, family)
    accuracies, latencies = [], []
    for architecture, seed in jobs(space, config):
        if found := _known(_result(arguments.work, (architecture, seed)), "table"):
            accuracies.append({**_factors(space, architecture), "seed": seed, **found})
    for architecture in dict.fromkeys(architecture for architecture, _ in jobs(space, config)):
        if found := _known(_latency(arguments.work, architecture), "latency"):
            latencies.append({"architecture": str(architecture), **found})
    for name, rows in (("table", accuracies), ("latency", latencies)):
        if rows:
            rows.sort(key=lambda row: (tuple(map(int, row["architecture"].split("_"))), row.get("seed", 0)))
            pq.write_table(pa.Table.from_pylist(rows), HERE / f"{name}.parquet")
    write_json(
        HERE / "provenance.json",
        {
            "architectures": space.size,
            "distilled": len(accuracies),
            "measured": len(latencies),
            "config": config.model_dump(mode="json", by_alias=True, exclude={"output", "cache"}),
            "machine": fingerprint(),
            "versions": versions(),
        },
    )
    print(f"{len(accuracies)} distillations and {len(latencies)} latencies of {space.size} architectures")


def _factors(space: DesignSpace, architecture: Architecture) -> dict[str, Any]:
    values = {name: getattr(architecture, name) for name in FACTORS if name != "num_blocks"}
    return {
        "architecture": str(architecture),
        **values,
        "num_parameters": int(space.parameters([architecture])[0]),
    }


@cache
def _published(table: str) -> dict[str, dict[str, Any]]:
    """The rows of a Parquet file by the name that their own files bear."""
    file = HERE / f"{table}.parquet"
    rows = pq.read_table(file).to_pylist() if file.exists() else []
    return {f"{row['architecture']}-{row['seed']}" if "seed" in row else row["architecture"]: row for row in rows}


def _known(place: Path, table: str) -> dict[str, Any] | None:
    """What was found earlier for the architecture (and seed) that ``place`` is named after."""
    return read_json(place) if place.exists() else _published(table).get(place.stem)


def _result(work: Path, job: Job) -> Path:
    return work / "accuracy" / f"{job[0]}-{job[1]}.json"


def _latency(work: Path, architecture: Architecture) -> Path:
    return work / "latency" / f"{architecture}.json"


def _shard(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"(\d+)/(\d+)", text)) or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard; write 1/2 for the first of two")
    return int(match[1]), int(match[2])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["distil", "measure", "write"])
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept as it comes")
    parser.add_argument("--shard", type=_shard, default=(1, 1), help="1/2: the first half of the students")
    return parser.parse_args()


if __name__ == "__main__":
    main()
