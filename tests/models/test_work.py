"""Operations and bytes of a student's call: formulas against PyTorch's counter and the written graph."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.models.onnx_writer import write_onnx
from flashdistill.models.students import STUDENT_CLASSES, build_student, no_empty_tensor_warning, student_config
from flashdistill.models.work import encoder_bytes, encoder_flops, module_flops, touched_weights

TEMPLATES = ("mobilebert", "autodistill")
ARCHITECTURES = ("512_128_4_512_4", "128_64_1_384_2", "246_160_8_640_6", "128_128_2_96_1")
SHAPES = ((1, 128), (4, 7), (2, 1))


def encoder_on_meta(architecture: Architecture, family: StudentFamily) -> nn.Module:
    """A student's body without its pooler, and without any memory."""
    with torch.device("meta"), no_empty_tensor_warning():
        body = STUDENT_CLASSES[family.template](student_config(architecture, family)).mobilebert.eval()
    body.pooler = None
    return body


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_operations_are_those_that_torch_counts(name: str, template: str) -> None:
    architecture, family = Architecture.parse(name), StudentFamily(template=template, num_blocks=3)
    body = encoder_on_meta(architecture, family)
    for batch, length in SHAPES:
        ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            body(input_ids=ids, token_type_ids=ids)
        assert encoder_flops(architecture, family, batch, length) == counter.get_total_flops()


@pytest.mark.parametrize(("template", "depth"), [("mobilebert", 1), ("mobilebert", 24), ("autodistill", 5)])
def test_every_depth(template: str, depth: int) -> None:
    architecture = Architecture(384, 96, 2, 384, 2, num_blocks=depth)
    family = StudentFamily(template=template, num_blocks=99, embedding_size=64)
    ids = torch.zeros(2, 33, dtype=torch.long)
    counted = module_flops(encoder_on_meta(architecture, family), {"input_ids": ids, "token_type_ids": ids})
    assert encoder_flops(architecture, family, 2, 33) == counted


def test_the_baseline_of_the_paper() -> None:
    """24 blocks of 512_128_4_512_4, 128 tokens: 5.4 billion operations, counted by hand."""
    linear = 3 * 512 * 128 + (512 * 128 + 2 * 128 * 128) + 128 * 128 + 8 * 128 * 512
    blocks = 24 * (linear + 2 * 128 * 128)
    by_hand = 2 * 128 * (3 * 128 * 512 + blocks)
    assert encoder_flops(Architecture(512, 128, 4, 512, 4), StudentFamily(), 1, 128) == by_hand


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("batch", [1, 30])
def test_weights_are_those_of_the_written_graph(template: str, batch: int, tmp_path: Path) -> None:
    architecture = Architecture(32, 16, 4, 24, 3)
    family = StudentFamily(template=template, num_blocks=2, vocab_size=101, embedding_size=16, max_positions=24)
    write_onnx(build_student(architecture, family, seed=0), tmp_path / "model.onnx")
    sizes = {
        tensor.name: math.prod(tensor.dims)
        for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in ("lowest", "one")
    }
    length = 9
    sizes["word_embeddings"] = min(batch * length, 101) * 16
    sizes["position_embeddings"] = length * 32
    assert touched_weights(architecture, family, batch, length) == sum(sizes.values())


def test_bytes_are_weights_and_feature_maps() -> None:
    architecture, family = Architecture(256, 64, 2, 384, 2), StudentFamily(num_blocks=3)
    weights = touched_weights(architecture, family, 2, 64)
    maps = 7 * (2 * 64) * 256  # after the embeddings, into and out of three blocks
    assert encoder_bytes(architecture, family, 2, 64, 4, 4) == 4 * weights + 4 * maps
    assert encoder_bytes(architecture, family, 2, 64, 1, 2) == weights + 2 * maps


def test_unknown_templates_are_refused() -> None:
    family = dataclasses.replace(StudentFamily(), template="lstm")
    with pytest.raises(ValueError, match="unknown template 'lstm'"):
        encoder_flops(Architecture(32, 16, 4, 24, 3), family, 1, 8)
    with pytest.raises(ValueError, match="unknown template 'lstm'"):
        encoder_bytes(Architecture(32, 16, 4, 24, 3), family, 1, 8, 4, 4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_foreign_model(attention: str) -> None:
    """Its attention counts, whichever way it is implemented, and its weights stay where they are."""
    h, i, blocks, batch, length = 32, 48, 2, 2, 10
    config = BertConfig(
        vocab_size=50, hidden_size=h, num_hidden_layers=blocks, num_attention_heads=4, intermediate_size=i
    )
    config._attn_implementation = attention
    model = BertModel(config, add_pooling_layer=False).eval()
    ids = torch.zeros(batch, length, dtype=torch.long)
    counted = module_flops(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert counted == 2 * batch * length * blocks * (4 * h * h + 2 * h * i + 2 * length * h)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
