from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.hub import columns_of, load_splits, read_copy, required_split


def test_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"^data set nyu-mll/glue \(cola\): the hub cannot be reached .*name a dir"):
        load_splits("nyu-mll/glue", "cola")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist\nmore"), r"not found \(Dataset 'a/b' d"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']"), "ValueError: BuilderConfig 'x' not found"),
    ],
)
def test_errors_are_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=message) as raised:
        load_splits("a/b", None)
    assert "\n" not in str(raised.value)


def test_no_code_of_a_data_set_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(*_: Any, **options: Any) -> dict:
        asked.update(options)
        return {}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_splits("a/b", None) == {}
    assert asked == {"revision": None}


def test_splits_and_columns_are_named(tmp_path: Path) -> None:
    split = datasets.Dataset.from_dict({"sentence": ["a"], "label": [1]})
    with pytest.raises(InputError, match="glue: no split 'train'; present: dev"):
        required_split({"dev": split}, "train", "glue")
    with pytest.raises(InputError, match="glue: no column 'sentences'; present: sentence, label; did you mean 'sent"):
        columns_of(split, ("sentences",), "glue")
    with pytest.raises(InputError, match="no Parquet files of 'cola'"):
        read_copy(tmp_path, "cola")
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not complete Parquet files"):
        read_copy(tmp_path, "cola")


def test_the_parts_of_a_split_are_joined_in_order(tmp_path: Path) -> None:
    for number in (1, 0):
        shard = datasets.Dataset.from_dict({"text": [f"{number}"]})
        shard.to_parquet(str(tmp_path / f"train-0000{number}-of-00002.parquet"))
    assert columns_of(read_copy(tmp_path, "x")["train"], ("text",), "x") == {"text": ["0", "1"]}
