"""What every serving runtime must do; a target's test class inherits this.

class TestMyTarget(TargetConformance):
    @pytest.fixture
    def artifact(self, tmp_path): ...

    def make_target(self, settings): return MyTarget(settings)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from flashdistill.core.errors import TargetError
from flashdistill.hardware.parity import check_parity, example_inputs
from flashdistill.hardware.settings import TargetSettings
from flashdistill.hardware.targets.base import REQUIRED_DESCRIPTION, Target

VOCAB_SIZE = 97


class TargetConformance(ABC):
    """Inherited tests; the subclass says how to make a target and a model with known answers.

    A subclass provides the fixture ``artifact``: the path of a model for the target, with
    `VOCAB_SIZE` tokens, that takes the inputs of `example_inputs`.
    """

    settings = TargetSettings(runtime="fake", batch_size=2, sequence_length=12)

    @abstractmethod
    def make_target(self, settings: TargetSettings) -> Target:
        """A target with nothing loaded."""

    @abstractmethod
    def answers(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """What the artifact's original computes."""

    @pytest.fixture
    def target(self) -> Target:
        return self.make_target(self.settings)

    @pytest.fixture
    def inputs(self) -> dict[str, np.ndarray]:
        return example_inputs(self.settings, VOCAB_SIZE, seed=0)

    def test_answers_like_the_original(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        check_parity("the model", target.infer(inputs), self.answers(inputs))

    def test_padding_is_masked(self, target: Target, artifact: Path, inputs: dict[str, np.ndarray]) -> None:
        target.load(artifact)
        unmasked = inputs | {"attention_mask": np.ones_like(inputs["attention_mask"])}
        with pytest.raises(TargetError, match="export"):
            check_parity("the model", target.infer(unmasked), self.answers(inputs))

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
        target.load(artifact)
        once = [np.array(output) for output in target.infer(inputs)]
        target.load(artifact)
        for first, again in zip(once, target.infer(inputs), strict=True):
            np.testing.assert_array_equal(first, again)

    def test_describes_itself(self, target: Target, artifact: Path) -> None:
        target.load(artifact)
        description = target.describe()
        assert set(REQUIRED_DESCRIPTION) <= set(description)
        assert description["threads"] == self.settings.threads

    def test_refuses_what_is_no_model(self, target: Target, tmp_path: Path) -> None:
        broken = tmp_path / "broken"
        broken.write_bytes(b"no model")
        with pytest.raises(TargetError, match="broken"):
            target.load(broken)
