"""The splits of a public data set, from the hub or from a directory that holds a copy of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashdistill.core.errors import InputError, first_line
from flashdistill.core.registry import did_you_mean


def load_splits(dataset: str, config: str | None, revision: str | None = None) -> dict[str, Any]:
    """Every split of a data set of the hub by its name, as `datasets.Dataset`. No code of it is run.

    Raises:
        InputError: not there, no such configuration, or the hub cannot be reached.
    """
    import datasets

    what = f"data set {dataset}" + (f" ({config})" if config else "")
    instead = "name a directory with its files as the task's data"
    try:
        loaded: Any = datasets.load_dataset(dataset, config, revision=revision)
    except ConnectionError as error:
        raise InputError(
            f"{what}: the hub cannot be reached ({first_line(error)}); load it once with a connection so that it is "
            f"cached, or {instead}"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{what}: not found ({first_line(error)}); {instead}") from error
    except Exception as error:
        # `datasets` promises no error types: configuration, decoding and schema errors all differ.
        raise InputError(f"{what}: {type(error).__name__}: {first_line(error)}") from error
    return dict(loaded)


def is_dataset_copy(directory: Path) -> bool:
    """Whether a directory is a copy of a hub data set rather than of a task's public files."""
    return any(directory.glob("*.parquet")) or any(directory.glob("*/*.parquet"))


def read_copy(directory: Path, config: str) -> dict[str, Any]:
    """Every split of a copied data set: ``SPLIT-*.parquet`` in the directory or in that of the configuration.

    `datasets` would take ``validation_matched`` and ``validation_mismatched`` for parts of one split.

    Raises:
        InputError: no such files, or a damaged one.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    home = directory / config if (directory / config).is_dir() else directory
    files: dict[str, list[Path]] = {}
    for path in sorted(home.glob("*.parquet")):
        files.setdefault(path.stem.partition("-")[0], []).append(path)
    if not files:
        raise InputError(f"{directory}: no Parquet files of {config!r}, neither there nor in a directory of that name")
    try:
        return {
            split: datasets.Dataset(pa.concat_tables([pq.read_table(path) for path in paths]))
            for split, paths in files.items()
        }
    except pa.ArrowException as error:
        raise InputError(f"{home}: not complete Parquet files ({first_line(error)})") from error


def columns_of(split: Any, names: tuple[str, ...], what: str) -> dict[str, list]:
    """The values of some columns of a split.

    Raises:
        InputError: a column is missing; lists those that there are.
    """
    for name in names:
        if name not in split.column_names:
            present = ", ".join(split.column_names)
            raise InputError(f"{what}: no column {name!r}; present: {present}{did_you_mean(name, split.column_names)}")
    return split.select_columns(list(names)).to_dict()


def class_names(split: Any, column: str) -> list[str] | None:
    """The names of a column's classes in the order of their indices; None where they are not declared."""
    return getattr(split.features[column], "names", None)


def required_split(splits: dict[str, Any], name: str, what: str) -> Any:
    """One split.

    Raises:
        InputError: it is not there; lists those that are.
    """
    if name not in splits:
        raise InputError(f"{what}: no split {name!r}; present: {', '.join(splits)}")
    return splits[name]
