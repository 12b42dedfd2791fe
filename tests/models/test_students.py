from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForMaskedLM

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.models import blocks
from flashdistill.models.delivered import load_student
from flashdistill.models.inputs import model_inputs
from flashdistill.models.parameter_count import count_parameters
from flashdistill.models.students import build_student, encoder_parameters
from flashdistill.testing.tiny import ARCHITECTURE, FAMILY, TinyData

TABLE_2 = {
    "512_128_4_512_4": 25_359_104,
    "512_128_1_384_4": 22_201_088,
    "512_128_1_640_2": 20_603_648,
    "512_128_1_640_4": 28_517_120,
    "512_128_2_640_2": 20_603_648,
    "512_128_4_512_2": 19_024_640,
    "512_128_4_640_2": 20_603_648,
    "512_160_2_512_2": 22_796_288,
}
"""The paper's Table 2, counted exactly."""


@pytest.mark.parametrize(("name", "parameters"), TABLE_2.items())
def test_formula_reproduces_table_2(name: str, parameters: int) -> None:
    assert count_parameters(Architecture.parse(name), StudentFamily(template="autodistill")) == parameters


@pytest.mark.parametrize(
    ("template", "name", "parameters"),
    [
        ("autodistill", "512_128_4_512_4", 25_359_104),
        ("autodistill", "512_160_2_512_2", 22_796_288),
        ("mobilebert", "512_128_4_512_4", 24_581_888),  # the published MobileBERT-OPT
    ],
)
def test_built_models_have_the_counts_of_the_table(template: str, name: str, parameters: int) -> None:
    family = StudentFamily(template=template)
    with torch.device("meta"):
        student = build_student(Architecture.parse(name), family, seed=0)
    assert encoder_parameters(student) == parameters
    assert count_parameters(Architecture.parse(name), family) == parameters


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
@pytest.mark.parametrize("name", ["16_8_2_12_1", "8_8_1_12_2", "32_4_4_8_3", "16_8_2_12_1_5"])
def test_formula_agrees_with_built_models(template: str, name: str) -> None:
    architecture = Architecture.parse(name)
    family = StudentFamily(template, num_blocks=3, vocab_size=50, embedding_size=8, max_positions=16)
    assert encoder_parameters(build_student(architecture, family, 0)) == count_parameters(architecture, family)


def test_impossible_architecture_and_unknown_template_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide the bottleneck of 8"):
        build_student(Architecture(16, 8, 3, 12, 1), FAMILY, 0)
    with pytest.raises(ValueError, match="unknown template 'bert'"):
        build_student(ARCHITECTURE, StudentFamily(template="bert"), 0)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = build_student(ARCHITECTURE, FAMILY, 5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = build_student(ARCHITECTURE, FAMILY, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
def test_block_by_block_equals_the_whole_model(template: str) -> None:
    family = StudentFamily(template, num_blocks=2, vocab_size=40, embedding_size=8, max_positions=32)
    student = build_student(ARCHITECTURE, family, 0)
    batch = TinyData().batch(0, 4)
    inputs = model_inputs(batch)
    expected = student(**inputs)
    hidden, mask = blocks.embed(student, inputs), blocks.additive_mask(inputs["attention_mask"])
    for index in range(blocks.num_blocks(student)):
        hidden = blocks.run_block(student, index, hidden, mask)
    positions = torch.from_numpy(batch.masked_positions)
    torch.testing.assert_close(
        blocks.mlm_logits(student, hidden, positions), expected.prediction_logits.flatten(0, 1)[positions]
    )
    torch.testing.assert_close(blocks.nsp_logits(student, hidden), expected.seq_relationship_logits)


@pytest.mark.parametrize("template", ["mobilebert", "autodistill"])
def test_saved_students_load_again(template: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    family = StudentFamily(template, num_blocks=2, vocab_size=40, embedding_size=8, max_positions=32)
    student = build_student(ARCHITECTURE, family, 0)
    student.save_pretrained(tmp_path)
    inputs = model_inputs(TinyData().batch(0, 2))
    torch.testing.assert_close(load_student(tmp_path)(**inputs).prediction_logits, student(**inputs).prediction_logits)
    if template == "mobilebert":
        stock = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(stock(**inputs).logits, student(**inputs).prediction_logits, rtol=1e-4, atol=1e-5)
