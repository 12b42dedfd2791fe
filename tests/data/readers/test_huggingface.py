from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from flashdistill.core.errors import CorpusError
from flashdistill.data.readers.huggingface import DatasetReader
from flashdistill.data.settings import DatasetSource, Source
from flashdistill.testing.corpus_reader import CorpusReaderConformance


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


class TestDatasetDirectory(CorpusReaderConformance):
    def write(self, directory: Path, documents: list[str]) -> Source:
        directory.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps({"id": number, "text": document}) for number, document in enumerate(documents)]
        (directory / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
        return DatasetSource(dataset=str(directory))

    def missing(self, directory: Path) -> Source:
        return DatasetSource(dataset=str(directory / "nothing"))


class TestSavedDataset(CorpusReaderConformance):
    def write(self, directory: Path, documents: list[str]) -> Source:
        whole = datasets.Dataset.from_dict({"text": documents})
        datasets.DatasetDict({"train": whole}).save_to_disk(str(directory))
        # The time of writing is not part of the content.
        for path in directory.rglob("state.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"_fingerprint": "0"}))
        return DatasetSource(dataset=str(directory))

    def missing(self, directory: Path) -> Source:
        return DatasetSource(dataset=str(directory / "nothing"))


def read(**source: Any) -> list[str]:
    return list(DatasetReader(DatasetSource(**source)).documents())


def test_columns_and_splits_are_checked(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"id": 1, "body": "one"}\n')
    with pytest.raises(CorpusError, match=r"no column 'text'; present: id, body"):
        read(dataset=str(tmp_path))
    with pytest.raises(CorpusError, match=r"column 'id' holds int, not text"):
        read(dataset=str(tmp_path), column="id")
    with pytest.raises(CorpusError, match="split other"):
        read(dataset=str(tmp_path), split="other")
    assert read(dataset=str(tmp_path), column="body") == ["one"]


def test_a_saved_data_set_names_its_splits(tmp_path: Path) -> None:
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["x"]})}).save_to_disk(str(tmp_path))
    with pytest.raises(CorpusError, match="no split 'train'; present: test"):
        read(dataset=str(tmp_path))


def test_offline_hub_says_what_to_do() -> None:
    reader = DatasetReader(DatasetSource(dataset="some-one/some-thing", name="en"))
    for attempt in (lambda: list(reader.documents()), reader.fingerprint):
        with pytest.raises(CorpusError, match=r"some-one/some-thing \(en\).*cannot be reached.*connect once"):
            attempt()


def test_the_hub_is_asked_for_what_the_source_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(path: str, name: str | None, **options: Any) -> Any:
        asked.update(options, path=path, name=name)
        return datasets.Dataset.from_dict({"text": ["one", None, "two"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read(dataset="a/b", name="en", split="test", revision="v1", streaming=True) == ["one", "two"]
    assert asked == {"path": "a/b", "name": "en", "split": "test", "revision": "v1", "streaming": True}
