"""A small measured table in the form that benchmarks.search_table writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashdistill.config import load_config
from flashdistill.core.files import write_json
from flashdistill.exploration.space import DesignSpace
from flashdistill.testing.synthetic_space import SyntheticProblem

CONFIG = Path(__file__).parents[2] / "benchmarks" / "search" / "table.yaml"
SMALL = ["space.hidden_size=[32, 64, 96]", "space.num_heads=[1, 2]", "space.intermediate_size=[96]"]
NOISE, LATENCY_NOISE = 0.003, 0.01

WriteTable = Callable[..., SyntheticProblem]


@pytest.fixture
def write_table() -> WriteTable:
    """Writes a table of 72 architectures into a directory and returns its truth."""

    def write(directory: Path, *, seeds: int = 4, seeded: int = 18, without: int = 0) -> SyntheticProblem:
        config = load_config(CONFIG, SMALL)
        space = DesignSpace(config.space, config.student_family(config.teacher.vocabulary or 0))
        truth, rng = SyntheticProblem(seed=1, space=space), np.random.default_rng(0)
        trained, measured = [], []
        for place, architecture in enumerate(space.table[: space.size - without]):
            for seed in range(seeds if place < seeded else 1):
                accuracy = truth.truth[place, 0] + NOISE * rng.standard_normal()
                trained.append(
                    {
                        "architecture": str(architecture),
                        "seed": seed,
                        "mlm_accuracy": accuracy,
                        "mlm_accuracy_stderr": 0.001,
                        "train_seconds": 5.0 + place,
                        **{f"accuracy_{share}": accuracy - 0.001 * (100 - share) for share in (25, 50, 75)},
                    }
                )
            latency = truth.truth[place, 1]
            measured.append(
                {"architecture": str(architecture), "latency_ms": latency, "latency_stderr": LATENCY_NOISE * latency}
            )
        directory.mkdir(parents=True, exist_ok=True)
        # Neither file is in the order of the space.
        pq.write_table(pa.Table.from_pylist(trained[::-1]), directory / "table.parquet")
        pq.write_table(pa.Table.from_pylist(measured[::-1]), directory / "latency.parquet")
        dumped = config.model_dump(mode="json", by_alias=True, exclude={"output", "cache"})
        write_json(directory / "provenance.json", {"config": dumped})
        return truth

    return write
