"""The nine tasks of GLUE (Wang et al. 2018): what their rows, labels and metrics are.

MRPC and QQP are reported as F1 and accuracy, STS-B as Pearson and Spearman correlation, as on the
benchmark's leaderboard; the metric that the leaderboard names first selects.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashdistill.data.tasks.parts import Part, RawTask


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE.

    Attributes:
        folder: its directory among the official downloads.
        text, pair, label: column names in the official files; CoLA's, which have no header, are ours.
        labels: class names in the order of the benchmark's indices; empty for a regression.
        hub_text, hub_pair: column names in the data set of the hub.
        splits: by the name of an evaluation split, the stem of its file.
        header: the columns of files without a header line.
    """

    folder: str
    text: str
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    pair: str | None = None
    hub_text: str = "sentence1"
    hub_pair: str | None = "sentence2"
    splits: tuple[tuple[str, str], ...] = (("validation", "dev"),)
    header: tuple[str, ...] | None = None


_NLI = ("entailment", "not_entailment")

GLUE_TASKS = {
    "cola": GlueTask(
        "CoLA",
        "sentence",
        "acceptable",
        ("unacceptable", "acceptable"),
        ("matthews",),
        hub_text="sentence",
        hub_pair=None,
        header=("source", "acceptable", "judgement", "sentence"),
    ),
    "mnli": GlueTask(
        "MNLI",
        "sentence1",
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        pair="sentence2",
        hub_text="premise",
        hub_pair="hypothesis",
        splits=(("validation_matched", "dev_matched"), ("validation_mismatched", "dev_mismatched")),
    ),
    "mrpc": GlueTask(
        "MRPC", "#1 String", "Quality", ("not_equivalent", "equivalent"), ("f1", "accuracy"), pair="#2 String"
    ),
    "qnli": GlueTask("QNLI", "question", "label", _NLI, pair="sentence", hub_text="question", hub_pair="sentence"),
    "qqp": GlueTask(
        "QQP",
        "question1",
        "is_duplicate",
        ("not_duplicate", "duplicate"),
        ("f1", "accuracy"),
        pair="question2",
        hub_text="question1",
        hub_pair="question2",
    ),
    "rte": GlueTask("RTE", "sentence1", "label", _NLI, pair="sentence2"),
    "sst2": GlueTask("SST-2", "sentence", "label", ("negative", "positive"), hub_text="sentence", hub_pair=None),
    "stsb": GlueTask("STS-B", "sentence1", "score", (), ("pearson", "spearman"), pair="sentence2"),
    "wnli": GlueTask("WNLI", "sentence1", "label", ("not_entailment", "entailment"), pair="sentence2"),
}


def glue_task(name: str, spec: GlueTask, parts: dict[str, Part], source: str, notes: list[str]) -> RawTask:
    """The task of what was read; ``parts`` has ``train``, any evaluation splits and perhaps ``test``."""
    evaluation = {split: part for split, part in parts.items() if split not in ("train", "test")}
    return RawTask(
        name,
        "classification" if spec.labels else "regression",
        parts["train"],
        spec.metrics,
        source,
        evaluation,
        parts.get("test"),
        spec.labels,
        notes=tuple(notes),
    )
