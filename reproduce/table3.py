"""The paper's Table 3: the students of Table 2, the baseline and the teacher on GLUE.

At `mini` real tasks that need no network stand in for GLUE; they come with the extra `tasks`. Every
model is fine-tuned with several seeds; the best student also from scratch, and from the fine-tuned
teacher. An interrupted command goes on where it was.

    python -m reproduce.table3 --scale mini
    python -m reproduce.table3 --scale small 'finetune.tasks=[{name: sst2, data: glue/SST-2}]'
    python -m reproduce.table3 --scale paper --dry-run
"""

from __future__ import annotations

from reproduce.finetuning_matrix import Found, make
from reproduce.finetuning_reading import compared_with_baseline, draw, markdown_table, sentences

PAPER_AHEAD = 4
"""Of the paper's seven students, those whose average on GLUE is above BERT_BASE's."""


def main() -> None:
    """Train what is missing, then draw, tabulate and read off."""
    make("table3", __doc__, draw, markdown_table, paragraph)


def paragraph(found: Found) -> str:
    """What agrees with the paper and what does not, from the figures alone."""
    return " ".join(part for part in (*sentences(found), claim(found)) if part)


def claim(found: Found) -> str:
    """The paper's claim: its students beat MobileBERT, and four of them BERT_BASE, in their average."""
    sides = compared_with_baseline(found)
    if sides is None:
        verdict = "Whether students beat the baseline is not known from these seeds."
    elif sides["ahead"]:
        ahead = len(sides["ahead"])
        in_part = " in part" if sides["behind"] or sides["level"] else ""
        verdict = f"Here {ahead} {'is' if ahead == 1 else 'are'} for certain, which agrees{in_part}."
    else:
        verdict = "Here none is for certain, which does not agree."
    return (
        f"In the paper students are ahead of MobileBERT on GLUE, and {PAPER_AHEAD} of seven ahead of BERT_BASE, by an "
        "average that mixes F1, accuracy and correlations (81.69 at most, with 28.5 M parameters); here averages "
        f"are over one metric. {verdict} {_other_tasks(found)}".strip()
    )


def _other_tasks(found: Found) -> str:
    glue = {"cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"}
    if glue.issuperset(task["name"] for task in found["tasks"]):
        return "DistilBERT, TinyBERT, NAS-BERT and MobileBERT as published are not trained again here."
    return "These tasks are not GLUE's, so no score is compared with the paper's or with those of published models."


if __name__ == "__main__":
    main()
