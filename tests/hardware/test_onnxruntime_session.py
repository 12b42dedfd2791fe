"""A real student through writer, runner and session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import TargetError
from flashdistill.hardware.cache import artifact_key, cached_artifact
from flashdistill.hardware.parity import Expected, example_inputs
from flashdistill.hardware.session import MeasurementSession
from flashdistill.hardware.settings import MeasurementSettings, TargetSettings
from flashdistill.models.onnx_writer import write_onnx
from flashdistill.models.students import build_student

FAMILY = StudentFamily(num_blocks=2, vocab_size=300, embedding_size=16, max_positions=32)
SETTINGS = TargetSettings(
    sequence_length=32,
    measurement=MeasurementSettings(
        tolerance=0.5, seconds=0.01, final_seconds=0.01, block_ms=2.0, patience_seconds=0.0
    ),
)


def export(architecture: Architecture, root: Path, seed: int = 0) -> tuple[Path, Expected]:
    student = build_student(architecture, FAMILY, seed)
    key = artifact_key(architecture, FAMILY, "onnxruntime", seed)
    artifact = cached_artifact(root, key, lambda path: write_onnx(student, path))
    inputs = example_inputs(SETTINGS, FAMILY.vocab_size, seed=0)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        output = student.mobilebert(**tensors).last_hidden_state.numpy()
    return artifact, Expected(inputs, [output])


@pytest.mark.usefixtures("few_passes")
def test_a_student_is_measured(tmp_path: Path) -> None:
    small, _ = export(Architecture(32, 16, 2, 32, 1), tmp_path)
    large, large_expected = export(Architecture(256, 128, 2, 512, 4), tmp_path)
    with MeasurementSession(SETTINGS, small, tmp_path / "work", seed=0) as session:
        measured = session.measure("large", large, large_expected)
        assert session.reference_ms is not None
        # Some fifty times the arithmetic: no load makes these two look alike.
        assert measured["latency_ms"].value > 3 * session.reference_ms
        assert measured["latency_ms"].environment["provider"] == "CPUExecutionProvider"
        assert measured["peak_memory_bytes"].value > measured["artifact_bytes"].value > 4e6

        _, other_weights = export(Architecture(32, 16, 2, 32, 1), tmp_path, seed=1)
        with pytest.raises(TargetError, match="export: output 0 of small"):
            session.measure("small", small, other_weights)


@pytest.mark.usefixtures("few_passes", "ssh_server")
def test_a_host_agrees_with_this_machine(tmp_path: Path) -> None:
    """The same machine, once directly and once over ssh."""
    small, _ = export(Architecture(64, 32, 2, 64, 1), tmp_path)
    large, expected = export(Architecture(128, 64, 2, 256, 2), tmp_path)
    ratios = []
    for host in (None, "serving-machine"):
        settings = SETTINGS.model_copy(update={"host": host, "python": sys.executable})
        with MeasurementSession(settings, small, tmp_path / f"work-{host}", seed=0) as session:
            latency = session.measure("large", large, expected)["latency_ms"]
            ratios.append(float(latency.details["ratio"] or 0))
            assert latency.environment["runtime_version"]
    # Hundredths of a second of measurement beside other tests: the ratio is right, not exact.
    here, there = ratios
    assert min(here, there) > 1.5
    assert 0.5 < there / here < 2


def test_the_runner_needs_no_torch() -> None:
    code = (
        "import sys; from flashdistill.hardware.runner import Runner; "
        "Runner({'runtime': 'onnxruntime'}, []); "
        "sys.exit([name for name in ('torch', 'transformers') if name in sys.modules] or 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
