"""The measured table: what every architecture of a space really reached, read from Parquet files.

A table directory has ``table.parquet`` (a row per architecture and training seed),
``latency.parquet`` (a row per architecture) and ``provenance.json``, whose ``config`` is the
configuration they were made with. `benchmarks.search_table` makes one.

Shape legend: N architectures of the space, r rows of the table, s checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

from benchmarks.search_replay.problems import ReplayProblem
from flashdistill.config import RunConfig
from flashdistill.core.errors import InputError
from flashdistill.core.files import read_json
from flashdistill.exploration.space import DesignSpace

DEFAULT_TABLE = Path(__file__).parents[1] / "search"
MEASURED, SMOOTHED = "measured", "measured-smoothed"

_CURVE = {0.25: "accuracy_25", 0.5: "accuracy_50", 0.75: "accuracy_75"}
_ACCURACIES = (*_CURVE.values(), "mlm_accuracy")


@dataclass(frozen=True)
class MeasuredTable:
    """The rows of a table directory.

    Attributes:
        row: of each row of the table, the architecture's place in the space's table; int [r].
        accuracies: at the checkpoints and at the end, [r, s + 1].
        stderr: of the final accuracy over the evaluation's tokens, [r].
        latency: ms, [N].
        latency_noise: relative standard error, [N].
    """

    space: DesignSpace
    row: np.ndarray
    accuracies: np.ndarray
    stderr: np.ndarray
    latency: np.ndarray
    latency_noise: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Accuracies averaged over an architecture's training seeds, [N, s + 1]."""
        return _mean_by(self.row, self.accuracies, self.space.size)

    @property
    def seeds(self) -> np.ndarray:
        """How many training seeds every architecture has, int [N]."""
        return np.bincount(self.row, minlength=self.space.size)

    def seed_covariance(self) -> np.ndarray:
        """Pooled covariance of the accuracies between seeds of one architecture, [s + 1, s + 1].

        Raises:
            InputError: no architecture was trained twice.
        """
        repeats = len(self.row) - self.space.size
        if repeats < 1:
            raise InputError(
                "the table has one training seed per architecture, so the noise of an accuracy is "
                "unknown; add rows with further seeds to table.parquet"
            )
        residuals = self.accuracies - self.mean[self.row]
        return residuals.T @ residuals / repeats

    def problem(self, *, smoothed: bool = False) -> ReplayProblem:
        """The table as a search problem: truth is the mean over seeds, or its smoothed version.

        A mean over few seeds has noise of its own, which no model can predict: replayed, the
        landscape is somewhat rougher than the real one. The smoothed one has less of that noise
        (see `smoothed`) and may be somewhat too regular. What is real lies between them.
        """
        mean, covariance = self.mean, self.seed_covariance()
        if smoothed:
            features = self.space.encode(self.space.table)
            mean = np.stack(
                [
                    shrunk_to_trend(features, column, variance / self.seeds)
                    for column, variance in zip(mean.T, np.diag(covariance), strict=True)
                ],
                axis=1,
            )
        return ReplayProblem(
            SMOOTHED if smoothed else MEASURED,
            self.space,
            np.stack([mean[:, -1], self.latency], axis=1),
            accuracy_stderr=_mean_by(self.row, self.stderr[:, None], self.space.size)[:, 0],
            latency_noise=self.latency_noise,
            seed_covariance=covariance,
            shares=tuple(_CURVE),
            curve=mean[:, :-1],
        )


def read_table(directory: Path) -> MeasuredTable:
    """Read a table directory.

    Raises:
        InputError: a file is missing, or an architecture of the space has no row.
    """
    files = [directory / name for name in ("table.parquet", "latency.parquet", "provenance.json")]
    for file in files:
        if not file.exists():
            raise InputError(f"{file} is missing; make the table first, or name its directory with --table DIR")
    config = RunConfig.model_validate(read_json(files[2])["config"])
    space = DesignSpace(config.space, config.student_family(config.teacher.vocabulary or 0))
    places = {str(architecture): place for place, architecture in enumerate(space.table)}
    trained = parquet.read_table(files[0]).to_pydict()
    measured = parquet.read_table(files[1]).to_pydict()
    for file, names in ((files[0], trained["architecture"]), (files[1], measured["architecture"])):
        _check_complete(file, names, places)
    kept = [place for place, name in enumerate(trained["architecture"]) if name in places]
    timed = {name: place for place, name in enumerate(measured["architecture"])}
    order = [timed[str(architecture)] for architecture in space.table]
    latency = np.array(measured["latency_ms"], dtype=float)[order]
    return MeasuredTable(
        space,
        np.array([places[trained["architecture"][place]] for place in kept]),
        np.stack([np.array(trained[name], dtype=float)[kept] for name in _ACCURACIES], axis=1),
        np.array(trained["mlm_accuracy_stderr"], dtype=float)[kept],
        latency,
        np.array(measured["latency_stderr"], dtype=float)[order] / latency,
    )


def _check_complete(file: Path, names: list[str], places: dict[str, int]) -> None:
    missing = sorted(set(places) - set(names))
    if missing:
        raise InputError(
            f"{file} has no row for {len(missing)} of {len(places)} architectures ({missing[0]} first): "
            "a replay needs the whole space; finish the table, or shrink `space` in provenance.json"
        )


def _mean_by(row: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, row, values)
    return total / np.bincount(row, minlength=count)[:, None]


def shrunk_to_trend(features: np.ndarray, values: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The best linear prediction of the noiseless values: a trend plus the credible part of the rest.

    The trend is a quadratic in the factors with pairwise interactions (least squares). What is
    left of a value is its own deviation from the trend and noise of known variance; it is kept
    in the proportion of the two variances (James and Stein's shrinkage).

    Args:
        features: [N, d].
        values: [N].
        variance: of the noise of each value, [N].
    """
    first, second = np.triu_indices(features.shape[1])
    design = np.column_stack([np.ones(len(features)), features, features[:, first] * features[:, second]])
    coefficients, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    trend = design @ coefficients
    rest = values - trend
    own = max(0.0, float(rest @ rest) / max(1, len(values) - int(rank)) - float(variance.mean()))
    return trend + rest * own / np.maximum(own + variance, 1e-300)
