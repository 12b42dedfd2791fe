from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from flashdistill.core.errors import InputError, TeacherError
from flashdistill.models.settings import TeacherSettings
from flashdistill.models.work import module_flops
from flashdistill.planning import teacher_shape as module
from flashdistill.planning.teacher_shape import POSITIONS, TeacherShape, shape_of, teacher_shape
from flashdistill.testing.tiny_teachers import FAMILIES, LENGTH, padded_inputs, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_a_family_without_its_weights(family: str) -> None:
    config = FAMILIES[family]
    shape, model = shape_of(config), tiny_model(config)
    inputs = padded_inputs()
    accepted = inputs if getattr(config, "type_vocab_size", 0) > 1 else {"input_ids": inputs["input_ids"]}
    body = shape.body_flops(3, LENGTH)
    assert module_flops(model.base_model, accepted) - body in (0, 2 * 3 * config.hidden_size**2), "a pooler at most"
    logits = module_flops(model, {"input_ids": torch.zeros(1, 1, dtype=torch.long)})
    assert logits - module_flops(model.base_model, {"input_ids": torch.zeros(1, 1, dtype=torch.long)}) == pytest.approx(
        shape.head_flops(1), abs=2 * 2 * config.hidden_size
    )


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "autodistill-layer_norm"])
def test_weights_of_a_family(family: str) -> None:
    """All matrices, so a little less than all parameters."""
    model = tiny_model(FAMILIES[family])
    matrices = {
        name: weight.numel()
        for name, weight in model.named_parameters()
        if weight.dim() == 2 and not any(part in name for part in ("position", "token_type", "pooler", "seq_relation"))
    }
    found = shape_of(FAMILIES[family]).num_weights
    # The layer behind MobileBERT's trigrams is small beside its table at any real size.
    trigram = sum(size for name, size in matrices.items() if "embedding_transformation" in name)
    projection = sum(size for name, size in matrices.items() if "embeddings_project" in name)
    positions = POSITIONS * FAMILIES[family].hidden_size
    assert found == sum(matrices.values()) - trigram - projection + positions


def test_shapes_by_hand() -> None:
    shape = TeacherShape.parse("3x8x16x50x2")
    assert shape == TeacherShape(3, 8, 16, 50, 2)
    assert shape.block_flops(2, 4) == 2 * 8 * (4 * 64 + 2 * 4 * 8 + 2 * 8 * 16)
    assert shape.embedding_flops(2, 4) == 0
    assert shape.head_flops(5) == 2 * 5 * 8 * (8 + 50)


@pytest.mark.parametrize("text", ["", "12x768", "axbxcxdxe", "0x8x8x8x8", "1x2x3x4x5x6", "3x8x16x50x2 "])
def test_a_wrong_shape_is_told(text: str) -> None:
    with pytest.raises(InputError, match="write LAYERSxHIDDEN"):
        TeacherShape.parse(text)


def test_a_directory_tells_its_shape_without_its_weights_being_read(tmp_path: Path) -> None:
    BertConfig(
        vocab_size=99, hidden_size=24, num_hidden_layers=5, num_attention_heads=3, intermediate_size=48
    ).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not even weights")
    settings = TeacherSettings.model_validate({"model": str(tmp_path)})
    assert teacher_shape(settings) == TeacherShape(5, 24, 48, 99, 3)
    kept = TeacherSettings.model_validate({"model": str(tmp_path), "vocabulary": 500})
    assert teacher_shape(kept).vocab_size == 99, "there are no more"


def test_a_teacher_to_be_pre_trained() -> None:
    ib = TeacherSettings.model_validate({"pretrain": {"template": "ib-bert", "steps": 1}})
    assert teacher_shape(ib) == TeacherShape(24, 512, 4096, 30522, 4, 128, "autodistill", 1024, 1)


def test_a_model_of_the_hub_is_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def cached(model: str, **options: object) -> str:
        asked.append((model, options["local_files_only"]))
        raise FileNotFoundError(model)

    monkeypatch.setattr(module, "snapshot_download", cached)
    settings = TeacherSettings.model_validate({"model": "google-bert/bert-base-uncased"})
    with pytest.raises(InputError, match="--teacher-shape LAYERSxHIDDEN"):
        teacher_shape(settings)
    assert asked == [("google-bert/bert-base-uncased", True)]

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 12}))
    monkeypatch.setattr(module, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert teacher_shape(settings).hidden_size == 12


def test_a_missing_directory_is_told() -> None:
    with pytest.raises(TeacherError, match="no directory"):
        teacher_shape(TeacherSettings.model_validate({"model": "./nowhere"}))
