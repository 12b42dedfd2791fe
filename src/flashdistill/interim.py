"""Scores of candidates in the middle of their training, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping, Sequence
from itertools import islice

from transformers import MobileBertForPreTraining

from flashdistill.core.clock import timed
from flashdistill.core.files import read_json, write_json
from flashdistill.core.measurement import Measurement, Objective, known_before_training
from flashdistill.core.progress import tracked
from flashdistill.core.trial import Trial
from flashdistill.delivery.json_form import decode, encode
from flashdistill.evaluation.pretraining_accuracy import pretraining_accuracy, student_predictor
from flashdistill.exploration.early_stopping import stop_reason
from flashdistill.workbench import Workbench

EVALUATION_BATCH = 32
"""Sequences scored at a time; has no influence on the result."""

INTERIM_SEQUENCES = 512
"""Of the validation text that is scored on the way, always the same; its order is random, so they
are a fair part of it. The error of half the text is 1.4 times larger, the cost half."""

SCORED = ("mlm_accuracy", "mlm_loss", "perplexity", "nsp_accuracy")
"""What is scored on the way; accuracy as a target serves it would need an export each time."""

_Curve = Mapping[float, Mapping[str, Measurement]]


def unscored(objectives: Sequence[Objective]) -> list[str]:
    """Metrics of training without a score on the way: with any, no candidate is ever stopped."""
    trained = (objective.metric for objective in objectives if not known_before_training(objective.metric))
    return [metric for metric in trained if metric not in SCORED]


class InterimJudge:
    """Scores one candidate on the way and decides whether it goes on; an `inspection.Judge`.

    What was scored is kept beside the checkpoints. A resumed training repeats the killed one bit
    for bit, so its scores are not taken again.

    Attributes:
        curve: the scores so far, by the share of the steps done.
    """

    def __init__(
        self,
        bench: Workbench,
        candidate: Trial,
        measured: Mapping[str, Measurement],
        trials: Sequence[Trial],
        costs: MutableMapping[str, float],
    ):
        """Args:
        measured: what is known of the candidate before its training.
        trials: of the study; those that it competes with are among them.
        costs: where the seconds of scoring are added, under ``evaluate``.
        """
        self._bench, self._trials, self._costs = bench, trials, costs
        self._candidate = dataclasses.replace(candidate, measurements=measured)
        self._file = bench.work_directory(candidate.architecture, "flash") / "interim.json"
        known: _Curve = decode(_Curve, read_json(self._file)) if self._file.exists() else {}
        self.curve: dict[float, Mapping[str, Measurement]] = dict(known)

    def __call__(self, student: MobileBertForPreTraining, share: float) -> str:
        """Why the training ends here; empty if it goes on."""
        if share not in self.curve:
            with timed(self._costs, "evaluate"):
                self.curve[share] = self._scores(student)
            write_json(self._file, encode(self.curve))
        config = self._bench.config
        candidate = dataclasses.replace(self._candidate, curve=self.curve)
        return stop_reason(candidate, share, self._trials, config.objectives, config.constraints)

    def _scores(self, student: MobileBertForPreTraining) -> dict[str, Measurement]:
        predict = student_predictor(student, with_nsp="nsp" in self._bench.config.tasks)
        batches = self._bench.pretraining_data.validation_batches(EVALUATION_BATCH)
        with tracked(self._bench.progress, f"score {self._candidate.architecture} on the way"):
            scores = pretraining_accuracy(predict, islice(batches, INTERIM_SEQUENCES // EVALUATION_BATCH))
        return {name: score for name, score in scores.items() if score.finite}
