"""What every serving runtime must do; a target's test class inherits this.

class TestMyTarget(TargetConformance):
    settings = TargetSettings(runtime="mine", precision="int8", batch_size=2, sequence_length=12)

    @pytest.fixture
    def exported(self, tmp_path): ...

    def make_target(self, settings): return MyTarget(settings)

    def answers(self, inputs): ...

One class per precision; where preparing takes long, a fixture ``artifact`` of a wider scope
replaces the one here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from flashdistill.core.errors import TargetError
from flashdistill.hardware.artifacts import artifact_digest
from flashdistill.hardware.parity import check_parity, example_inputs
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.base import REQUIRED_DESCRIPTION, Target

VOCAB_SIZE = 97


class TargetConformance(ABC):
    """Inherited tests; the subclass says how to make a target and a model with known answers.

    A subclass provides the fixture ``exported``: the path of a model in the target's `artifact`
    format, with `VOCAB_SIZE` tokens, that takes the inputs of `example_inputs`. In a reduced
    precision every part of it must show in the outputs; `lively_student` makes such models.
    """

    settings = TargetSettings(runtime="fake", batch_size=2, sequence_length=12)

    @abstractmethod
    def make_target(self, settings: TargetSettings) -> Target:
        """A target with nothing loaded."""

    @abstractmethod
    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """What the exported model's original computes."""

    @pytest.fixture
    def target(self) -> Target:
        return self.make_target(self.settings)

    @pytest.fixture
    def exported(self) -> Path:
        pytest.skip("the test class makes a prepared artifact only")

    @pytest.fixture
    def artifact(self, exported: Path, tmp_path: Path) -> Path:
        """What `load` takes, prepared by an instance of its own, as in a measurement."""
        directory = tmp_path / "prepared"
        directory.mkdir()
        return self.make_target(self.settings).prepare(exported, directory)

    @pytest.fixture
    def inputs(self) -> dict[str, np.ndarray]:
        return example_inputs(self.settings, VOCAB_SIZE, seed=0)

    def check(self, got: Sequence[np.ndarray], inputs: Mapping[str, np.ndarray]) -> None:
        check_parity("the model", got, self.answers(inputs), self.settings.precision)

    def test_answers_like_the_original(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        outputs = target.infer(inputs)
        assert {output.dtype for output in outputs} == {np.dtype(np.float32)}
        self.check(outputs, inputs)

    def test_padding_is_masked(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        unmasked = inputs | {"attention_mask": np.ones_like(inputs["attention_mask"])}
        with pytest.raises(TargetError, match="export"):
            self.check(target.infer(unmasked), inputs)

    def test_answers_stay_valid_after_the_next_call(
        self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]
    ) -> None:
        target.load(artifact)
        first = target.infer(inputs)
        copies = [np.array(output) for output in first]
        target.infer(inputs | {"input_ids": (inputs["input_ids"] + 1) % VOCAB_SIZE})
        for output, copy in zip(first, copies, strict=True):
            np.testing.assert_array_equal(output, copy)

    def test_same_inputs_same_answers(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        """Again, loaded anew, and loaded by another instance."""
        target.load(artifact)
        once = [np.array(output) for output in target.infer(inputs)]
        again = [target.infer(inputs)]
        target.load(artifact)
        again.append(target.infer(inputs))
        another = self.make_target(self.settings)
        another.load(artifact)
        again.append(another.infer(inputs))
        for outputs in again:
            for first, other in zip(once, outputs, strict=True):
                np.testing.assert_array_equal(first, other)

    def test_preparing_leaves_the_export_as_it_was(self, target: Target, exported: Path, tmp_path: Path) -> None:
        directory = tmp_path / "prepared once more"
        directory.mkdir()
        before, beside = artifact_digest(exported), sorted(exported.parent.iterdir())
        prepared = target.prepare(exported, directory)
        assert artifact_digest(exported) == before
        assert {path for path in exported.parent.iterdir() if path != directory} == set(beside) - {directory}
        assert prepared == exported or prepared.is_relative_to(directory)

    def test_describes_itself(self, target: Target, artifact: Path) -> None:
        target.load(artifact)
        description = target.describe()
        assert set(REQUIRED_DESCRIPTION) <= set(description)
        assert description["runtime"] == self.settings.runtime
        assert description["precision"] == self.settings.precision
        assert description["threads"] == self.settings.threads
        assert description["provider"]
        assert description["cpu_bound"] == (self.settings.device_type == "cpu")

    def test_serves_what_it_says(self, target: Target) -> None:
        assert self.settings.precision in target.precisions[self.settings.device_type]

    def test_refuses_what_is_no_model(self, target: Target, tmp_path: Path) -> None:
        broken = tmp_path / "broken"
        broken.write_bytes(b"no model")
        with pytest.raises(TargetError, match="broken"):
            target.load(broken)
