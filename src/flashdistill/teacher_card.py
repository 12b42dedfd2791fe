"""The card of a prepared teacher: ``README.md`` beside its weights."""

from __future__ import annotations

from collections.abc import Sequence

from flashdistill.delivery.model_card import escape_markdown

Facts = Sequence[tuple[str, str]]

_STOCK = """\
from transformers import AutoModelForMaskedLM, AutoTokenizer

directory = "."  # this directory
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForMaskedLM.from_pretrained(directory)
"""

_OWN = """\
from pathlib import Path

from transformers import AutoTokenizer

from flashdistill.models.foreign import load_config, load_masked_lm

directory = Path(".")  # this directory
tokenizer = AutoTokenizer.from_pretrained(directory)
model, _ = load_masked_lm(directory, load_config(directory))
"""


def teacher_card(name: str, license: str, stock: bool, facts: Facts, settings: Facts, versions: Facts) -> str:
    """The card's text: front matter in YAML, then Markdown.

    Args:
        license: as the model that this one was made from states it; empty where there is none.
        stock: whether `transformers` alone can load the model.
        facts: what the model is and how well it does on held-out text.
        settings: what it was trained with.
        versions: of the software.
    """
    front = ["library_name: transformers", "pipeline_tag: fill-mask"]
    if license:
        front.append(f"license: {license}")
    front += ["tags:", "- fill-mask", "- flashdistill"]
    reason = (
        "With `transformers`, without custom code:"
        if stock
        else "Its blocks project queries and keys from their input, which the stock MobileBERT of `transformers` "
        "cannot do, so FlashDistill loads it:"
    )
    licence = (
        f"The model that this one was made from states: {escape_markdown(license)}. The text's licence applies, too."
        if license
        else "The licences of the text, and of the model that this one was made from, if any, apply."
    )
    sections = [
        "\n".join(["---", *front, "---"]),
        f"# {escape_markdown(name)}",
        "A masked language model, prepared by FlashDistill as a teacher for distillation.",
        f"## Use\n\nIn a configuration of FlashDistill, with this directory's path:\n\n"
        f"```yaml\nteacher: {{model: DIRECTORY}}\n```\n\n{reason}\n\n```python\n"
        f"{_STOCK if stock else _OWN}```",
        f"## Facts\n\n{_bullets(facts)}\n\nAfter ± stands the standard error. Accuracy and loss are of held-out "
        "documents of the same text.",
        f"## Training\n\n{_bullets(settings)}",
        f"## Software\n\n{_bullets(versions)}",
        f"## Licence\n\n{licence}",
    ]
    return "\n\n".join(sections) + "\n"


def _bullets(facts: Facts) -> str:
    return "\n".join(f"- {escape_markdown(name)}: {escape_markdown(value)}" for name, value in facts)
