"""Data sets of the Hugging Face hub, and directories that `datasets` can load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashdistill.core.errors import CorpusError, first_line
from flashdistill.core.files import content_key
from flashdistill.data.readers.base import CorpusReader
from flashdistill.data.readers.files import combined, hash_files
from flashdistill.data.readers.tables import document, missing_column
from flashdistill.data.settings import DatasetSource


class DatasetReader(CorpusReader):
    """One column of one split of a data set; a row is a document.

    A data set of the hub is downloaded once and then read memory-mapped, because the text is
    read several times (vocabulary, tokens); with ``streaming`` it is fetched anew each time. A
    local directory is always streamed: a copy would only cost disk. No code of a data set runs:
    `datasets` no longer supports any.
    """

    def __init__(self, source: DatasetSource):
        self._source = source

    def documents(self) -> Iterator[str]:
        column = self._source.column
        with self._explained():
            rows = self._load()
            names = rows.column_names
            if names is not None:
                if column not in names:
                    raise missing_column(self.describe(), column, names)
                rows = rows.select_columns([column])
            for number, row in enumerate(rows):
                if column not in row:
                    raise missing_column(self.describe(), column, row)
                if (text := document(row[column], f"{self.describe()}, row {number}", column)) is not None:
                    yield text

    def fingerprint(self) -> str:
        source = self._source
        parts = (source.name, source.split, source.column)
        if (directory := self._directory()) is not None:
            files = sorted(path for path in directory.rglob("*") if path.is_file())
            names = (path.relative_to(directory).as_posix() for path in files)
            return combined(hash_files(files), *names, *parts)
        with self._explained():
            import datasets

            builder = datasets.load_dataset_builder(source.dataset, source.name, revision=source.revision)
        # For a data set of the hub, `hash` is the commit.
        return content_key(source.dataset, builder.hash, *parts)

    def describe(self) -> str:
        source = self._source
        name = f" ({source.name})" if source.name else ""
        return f"data set {source.dataset}{name}, split {source.split}"

    def _directory(self) -> Path | None:
        path = Path(self._source.dataset).expanduser()
        return path if path.is_dir() else None

    def _load(self) -> Any:
        import datasets

        source, directory = self._source, self._directory()
        if directory is None:
            return datasets.load_dataset(
                source.dataset, source.name, split=source.split, revision=source.revision, streaming=source.streaming
            )
        if (directory / "dataset_dict.json").is_file():
            splits = datasets.load_from_disk(str(directory))
            if source.split not in splits:
                raise CorpusError(f"{directory}: no split {source.split!r}; present: {', '.join(map(str, splits))}")
            return splits[source.split]
        if (directory / "state.json").is_file():
            return datasets.load_from_disk(str(directory))
        name = str(directory)  # a directory, which has no revisions
        return datasets.load_dataset(name, source.name, split=source.split, streaming=True)  # nosec B615

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the many errors of `datasets` into one message that says what to do."""
        try:
            yield
        except CorpusError:
            raise
        except ConnectionError as error:
            raise CorpusError(
                f"{self.describe()}: the hub cannot be reached ({first_line(error)}); connect once so that it is "
                "cached, or name a local directory or files as corpus.source"
            ) from error
        except FileNotFoundError as error:
            raise CorpusError(
                f"{self.describe()}: neither a local directory (relative to {Path.cwd()}) nor found on the hub "
                f"({first_line(error)})"
            ) from error
        except Exception as error:
            # `datasets` promises no error types: decoding, schema and builder errors all differ.
            raise CorpusError(f"{self.describe()}: {type(error).__name__}: {first_line(error)}") from error
