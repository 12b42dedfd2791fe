"""The paper's Table 4: the students of Table 2, the baseline and the teacher on SQuAD v1.1.

At `mini` cloze questions about Wikipedia articles stand in for SQuAD; they need no network. Every model is
fine-tuned with several seeds; the best student also from scratch, and from the fine-tuned teacher.
An interrupted command goes on where it was.

    python -m reproduce.table4 --scale mini
    python -m reproduce.table4 --scale small 'finetune.tasks=[{name: squad, data: DIRECTORY}]'
    python -m reproduce.table4 --scale paper --dry-run 'finetune.tasks=[squad, squad2]'
"""

from __future__ import annotations

from reproduce.finetuning_matrix import Found, make
from reproduce.finetuning_reading import draw, markdown_table, overall, sentences

PAPER_F1, PAPER_PARAMETERS = 0.884, 22.8
"""What the paper's best student reaches on SQuAD, and its millions of parameters (its abstract)."""


def main() -> None:
    """Train what is missing, then draw, tabulate and read off."""
    make("table4", __doc__, draw, markdown_table, paragraph)


def paragraph(found: Found) -> str:
    """What agrees with the paper and what does not, from the figures alone."""
    return " ".join(part for part in (*sentences(found), claim(found)) if part)


def claim(found: Found) -> str:
    """The paper's claim: 88.4 % F1 with 22.8 M parameters, above DistilBERT, TinyBERT and NAS-BERT."""
    paper = f"The paper reports up to {PAPER_F1:.1%} F1 on SQuAD, with {PAPER_PARAMETERS} M parameters."
    if {task["name"] for task in found["tasks"]} != {"squad"}:
        return f"{paper} These questions are not SQuAD v1.1's alone, so no score is compared with it."
    mean, _ = overall(found)
    students = [row for row in found["rows"] if row["role"] in ("best", "student") and row["name"] in mean]
    if not students:
        return paper
    best = max(students, key=lambda row: mean[row["name"]])
    value, size = mean[best["name"]], best["parameters"] / 1e6
    verdict = "which agrees" if value >= PAPER_F1 else "which does not reach it"
    return f"{paper} Here {best['name']} has {value:.1%} with {size:.1f} M, {verdict}."


if __name__ == "__main__":
    main()
