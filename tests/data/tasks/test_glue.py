from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from flashdistill.core.errors import InputError
from flashdistill.data.tasks.glue import GLUE_TASKS, load_glue
from flashdistill.data.tasks.parts import Part
from flashdistill.data.tasks.settings import SplitFiles, TaskSettings
from flashdistill.data.tasks.task import Sentences

PAIRED = "index\tsentence1\tsentence2\tlabel\n"
HEADERS = {
    "mnli": "index\tpromptID\tpairID\tgenre\ts1_binary\ts2_binary\ts1_parse\ts2_parse\tsentence1\tsentence2\tlabel1\t"
    "gold_label\n",
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
    "qnli": "index\tquestion\tsentence\tlabel\n",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
    "rte": PAIRED,
    "sst2": "sentence\tlabel\n",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
    "wnli": PAIRED,
    "cola": "",
}
ROWS = {
    # task: two official rows, then their text, second text and label as they should be read
    "cola": ("gj04\t1\t\tIt rains.\ngj04\t0\t*\tRains it.\n", ["It rains.", "Rains it."], None, [1, 0]),
    "mnli": (
        "0\t1\t1n\tfiction\t(\t(\t(\t(\tIt is.\tIt isn't.\tx\tcontradiction\n"
        "1\t2\t2n\tfiction\t(\t(\t(\t(\tIt was.\tIt was.\tx\tentailment\n",
        ["It is.", "It was."],
        ["It isn't.", "It was."],
        [2, 0],
    ),
    "mrpc": (
        '1\t7\t8\tHe said "no.\tHe said no.\n0\t9\t10\tA\tB "b"\n',
        ['He said "no.', "A"],
        ["He said no.", 'B "b"'],
        [1, 0],
    ),
    "qnli": ("0\tWhy?\tSo.\tnot_entailment\n1\tWhen?\tNow.\tentailment\n", ["Why?", "When?"], ["So.", "Now."], [1, 0]),
    "qqp": ("0\t1\t2\tA?\tB?\t0\n1\t3\t4\tC?\tD?\t1\n", ["A?", "C?"], ["B?", "D?"], [0, 1]),
    "rte": ("0\tP\tQ\tentailment\n1\tR\tS\tnot_entailment\n", ["P", "R"], ["Q", "S"], [0, 1]),
    "sst2": ('"hide new secretions \t0\ngood\t1\n', ['"hide new secretions ', "good"], None, [0, 1]),
    "stsb": (
        "0\tg\tf\ty\t1\tn\tn\tOne.\tTwo.\t2.250\n1\tg\tf\ty\t2\tn\tn\tA.\tA.\t5.000\n",
        ["One.", "A."],
        ["Two.", "A."],
        [2.25, 5.0],
    ),
    "wnli": ("0\tP\tQ\t1\n1\tR\tS\t0\n", ["P", "R"], ["Q", "S"], [1, 0]),
}


def write_official(directory: Path, name: str) -> Path:
    home = directory / GLUE_TASKS[name].folder
    home.mkdir(parents=True)
    for stem in ("train", *dict(GLUE_TASKS[name].splits).values()):
        (home / f"{stem}.tsv").write_text(HEADERS[name] + ROWS[name][0], encoding="utf-8")
    return home


def rows(part: Part | None) -> Sentences:
    assert part is not None
    assert isinstance(part.rows, Sentences)
    return part.rows


def labels(part: Part | None) -> list[float]:
    values = rows(part).labels
    assert values is not None
    return values.tolist()


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_official_files(name: str, tmp_path: Path) -> None:
    home = write_official(tmp_path, name)
    for directory in (home, tmp_path):
        raw = load_glue(TaskSettings(name=name, data=str(directory)))
        _, texts, pairs, values = ROWS[name]
        for part in (raw.train, *raw.evaluation.values()):
            assert rows(part).texts == texts
            assert rows(part).pairs == pairs
            assert labels(part) == values
        assert raw.train.place(0) == f"{home / 'train.tsv'}:{1 if name == 'cola' else 2}"
        assert raw.test is None
        assert raw.notes == ()


def test_kinds_metrics_and_splits_are_the_benchmarks(tmp_path: Path) -> None:
    found = {}
    for name in GLUE_TASKS:
        raw = load_glue(TaskSettings(name=name, data=str(write_official(tmp_path, name))))
        found[name] = (raw.kind, raw.metrics, tuple(raw.evaluation), raw.labels)
    classes, validation = "classification", ("validation",)
    nli = ("entailment", "not_entailment")
    assert found == {
        "cola": (classes, ("matthews",), validation, ("unacceptable", "acceptable")),
        "mnli": (
            classes,
            ("accuracy",),
            ("validation_matched", "validation_mismatched"),
            ("entailment", "neutral", "contradiction"),
        ),
        "mrpc": (classes, ("f1", "accuracy"), validation, ("not_equivalent", "equivalent")),
        "qnli": (classes, ("accuracy",), validation, nli),
        "qqp": (classes, ("f1", "accuracy"), validation, ("not_duplicate", "duplicate")),
        "rte": (classes, ("accuracy",), validation, nli),
        "sst2": (classes, ("accuracy",), validation, ("negative", "positive")),
        "stsb": ("regression", ("pearson", "spearman"), validation, ()),
        "wnli": (classes, ("accuracy",), validation, ("not_entailment", "entailment")),
    }


def test_mnli_rows_without_a_gold_label_are_left_out(tmp_path: Path) -> None:
    home = write_official(tmp_path, "mnli")
    with (home / "dev_matched.tsv").open("a") as handle:
        handle.write("2\t3\t3n\tfiction\t(\t(\t(\t(\tP\tH\tx\t-\n")
    raw = load_glue(TaskSettings(name="mnli", data=str(home)))
    assert len(raw.evaluation["validation_matched"]) == 2
    assert raw.notes == ("dev_matched.tsv: 1 rows without a gold label are left out",)


def test_a_few_broken_lines_of_qqp_are_left_out_and_counted(tmp_path: Path) -> None:
    home = write_official(tmp_path, "qqp")
    good = "".join(f"{row}\t1\t2\tA?\tB?\t{row % 2}\textra\n" for row in range(200))
    (home / "train.tsv").write_text(HEADERS["qqp"] + "5\t1\t2\tthe rest is missing\n" + good)
    raw = load_glue(TaskSettings(name="qqp", data=str(home)))
    assert len(raw.train) == 200
    assert raw.train.place(0).endswith("train.tsv:3")
    assert raw.notes == ("train.tsv: 1 lines lack columns and are left out (the first is line 2)",)
    (home / "train.tsv").write_text(HEADERS["qqp"] + "too short\n" * 5 + good)
    with pytest.raises(InputError, match=r"train.tsv:2: this and 4 further of 205 lines lack columns"):
        load_glue(TaskSettings(name="qqp", data=str(home)))


def test_mrpc_as_microsoft_published_it(tmp_path: Path) -> None:
    (tmp_path / "msr_paraphrase_train.txt").write_text(HEADERS["mrpc"] + ROWS["mrpc"][0], encoding="utf-8")
    raw = load_glue(TaskSettings(name="mrpc", data=str(tmp_path)))
    assert (len(raw.train), dict(raw.evaluation), raw.test) == (2, {}, None)
    (tmp_path / "dev_ids.tsv").write_text("9\t10\n")
    (tmp_path / "msr_paraphrase_test.txt").write_text(HEADERS["mrpc"] + ROWS["mrpc"][0], encoding="utf-8")
    raw = load_glue(TaskSettings(name="mrpc", data=str(tmp_path)))
    assert rows(raw.train).texts == ['He said "no.']
    assert rows(raw.evaluation["validation"]).texts == ["A"]
    assert labels(raw.test) == [1, 0]


def test_files_by_split_and_a_single_file(tmp_path: Path) -> None:
    home = write_official(tmp_path, "rte")
    train, dev = str(home / "train.tsv"), str(home / "dev.tsv")
    raw = load_glue(TaskSettings(name="rte", data=SplitFiles(train=train, validation=dev, test=dev)))
    assert list(raw.evaluation) == ["validation"]
    assert labels(raw.test) == [0, 1]
    assert load_glue(TaskSettings(name="rte", data=train)).evaluation == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rte", "index\tsentence1\tsentence2\n0\tP\tQ\n", "train.tsv:1: no column 'label'.*test files .* no labels"),
        ("rte", PAIRED + "0\tP\tQ\tperhaps\n", r"train.tsv:2: the label 'perhaps' is none .*\(entailment, not_ent"),
        ("stsb", HEADERS["stsb"] + "0\tg\tf\ty\t1\tn\tn\tA\tB\thigh\n", "train.tsv:2: the score 'high' is not a num"),
    ],
)
def test_files_that_are_not_the_tasks(name: str, content: str, message: str, tmp_path: Path) -> None:
    home = write_official(tmp_path, name)
    (home / "train.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        load_glue(TaskSettings(name=name, data=str(home)))


def test_missing_files_are_named(tmp_path: Path) -> None:
    home = write_official(tmp_path, "mnli")
    (home / "dev_mismatched.tsv").unlink()
    with pytest.raises(InputError, match="no file '.*dev_mismatched.tsv'.*train.tsv, dev_matched.tsv, dev_mismat"):
        load_glue(TaskSettings(name="mnli", data=str(home)))


def hub_split(name: str, values: list[Any], classes: list[str] | None = None) -> datasets.Dataset:
    spec = GLUE_TASKS[name]
    columns: dict[str, Any] = {spec.hub_text: [f"text {row}" for row in range(len(values))], "label": values}
    if spec.hub_pair:
        columns[spec.hub_pair] = [f"pair {row}" for row in range(len(values))]
    split = datasets.Dataset.from_dict(columns)
    return split if classes is None else split.cast_column("label", datasets.ClassLabel(names=classes))


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_the_hub_is_asked_for_the_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    spec = GLUE_TASKS[name]
    values = [0, 1, 1] if spec.labels else [0.5, 1.5, 2.5]

    def load_dataset(path: str, config: str, **options: Any) -> Any:
        asked.update(options, path=path, config=config)
        test = hub_split(name, [-1, -1] if spec.labels else [-1.0, -1.0])
        good = hub_split(name, values, list(spec.labels) or None)
        return datasets.DatasetDict({"train": good, "test": test} | {split: good for split, _ in spec.splits})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    raw = load_glue(TaskSettings(name=name, revision="v1"))
    assert asked == {"path": "nyu-mll/glue", "config": name, "revision": "v1"}
    assert labels(raw.train) == values
    assert rows(raw.train).texts == ["text 0", "text 1", "text 2"]
    assert rows(raw.train).pairs == (["pair 0", "pair 1", "pair 2"] if spec.hub_pair else None)
    assert raw.test is None
    assert "v1" in raw.source


def test_a_copy_of_the_hubs_files(tmp_path: Path) -> None:
    home = tmp_path / "mnli"
    home.mkdir()
    # Another order of the classes than ours: names decide.
    order = ["contradiction", "entailment", "neutral"]
    for split, values in {"train": [0, 1, 2], "validation_matched": [1], "validation_mismatched": [2, -1]}.items():
        hub_split("mnli", values, order).to_parquet(str(home / f"{split}-00000-of-00001.parquet"))
    raw = load_glue(TaskSettings(name="mnli", data=str(tmp_path)))
    assert labels(raw.train) == [2, 0, 1]
    assert {name: labels(part) for name, part in raw.evaluation.items()} == {
        "validation_matched": [0],
        "validation_mismatched": [1],
    }
    assert raw.evaluation["validation_mismatched"].place(0).endswith("split validation_mismatched, row 0")
    assert [note.partition(": ")[2] for note in raw.notes] == ["1 rows without a label are left out"]
    assert rows(raw.train).labels is not None
    assert rows(raw.train).labels.dtype == np.int64  # type: ignore[union-attr]
