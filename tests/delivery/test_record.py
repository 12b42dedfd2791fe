"""A record survives its JSON form, and a damaged one is refused with the place named."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from flashdistill.core.architecture import Architecture
from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.measurement import Measurement
from flashdistill.core.trial import Trial, TrialState
from flashdistill.delivery.record import SCHEMA, CurvePoint, LearningCurve, RunRecord


@pytest.mark.parametrize("name", ["rich", "empty", "all_failed", "single"])
def test_survives_a_file(name, request, tmp_path):
    record = request.getfixturevalue(name)
    record.save(tmp_path)
    assert RunRecord.load(tmp_path) == record


def test_json_is_readable_by_others(rich):
    data = json.loads(json.dumps(rich.to_json(), allow_nan=False))
    assert data["schema"] == SCHEMA
    assert data["trials"][0]["architecture"] == "192_64_2_256_2"
    assert data["trials"][3]["state"] == "infeasible"
    assert data["objectives"] == [
        {"metric": "mlm_accuracy", "goal": "maximize"},
        {"metric": "latency_ms", "goal": "minimize"},
    ]


def test_numbers_that_json_has_not_are_left_out(rich):
    bad = Trial(
        1,
        Architecture.parse("128_64_2_256_2"),
        TrialState.COMPLETE,
        measurements={
            "mlm_loss": Measurement("mlm_loss", math.nan, "nats"),
            "latency_ms": Measurement("latency_ms", np.float64(2.5), "ms", stderr=math.inf, samples=3),  # type: ignore[arg-type]
        },
        costs={"distill": math.inf, "measure": 2.0},
    )
    curve = LearningCurve(bad.architecture, "flash", (CurvePoint(1, "block 1", loss=math.nan),))
    record = replace(rich, trials=(bad,), hypervolume=(None, math.nan), curves=(curve,))
    read = RunRecord.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert set(read.trials[0].measurements) == {"latency_ms"}
    assert read.trials[0].measurements["latency_ms"].stderr is None
    assert read.trials[0].costs == {"measure": 2.0}
    assert read.hypervolume == (None, None)
    assert read.curves[0].points[0].loss is None


def test_settings_hold_what_json_can_hold(empty, tmp_path):
    record = replace(empty, environment={"path": tmp_path, "cores": np.int64(2), "flags": ("a", "b"), 3: True})
    assert record.to_json()["environment"] == {"path": str(tmp_path), "cores": 2, "flags": ["a", "b"], "3": True}


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("trials", 2, "number"), "two", r"trials\[2\]\.number"),
        (("trials", 1, "state"), "cooked", "cooked"),
        (("trials", 1, "architecture"), "12_7", "not an architecture"),
        (("teacher", "num_layers"), 6.5, r"teacher\.num_layers"),
        (
            ("delivered", 0, "measurements", "latency_ms", "value"),
            None,
            r"delivered\[0\]\.measurements\.latency_ms\.value",
        ),
        (("curves", 0, "budget"), "huge", "allowed: 'flash', 'regular'"),
        (("front",), 3, "front"),
        (("surprise",), 1, "unknown surprise"),
    ],
)
def test_damage_is_named(rich, place, value, complaint):
    data = json.loads(json.dumps(rich.to_json()))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(RunDirectoryError, match=complaint):
        RunRecord.from_json(data)


def test_missing_fields_are_named(rich):
    data = rich.to_json()
    del data["seed"], data["baseline"]
    with pytest.raises(RunDirectoryError, match="baseline, seed missing"):
        RunRecord.from_json(data)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [([], "no schema number"), ({"name": "x"}, "no schema number"), ({"schema": SCHEMA + 1}, f"schema {SCHEMA + 1}")],
)
def test_other_files_are_refused(data, complaint):
    with pytest.raises(RunDirectoryError, match=complaint):
        RunRecord.from_json(data)


def test_a_directory_without_results(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"results\.json does not exist"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize("content", [b'{"schema": 1', b"\xff\xfe\x00", b'{"schema": 1}'])
def test_an_unreadable_file_is_named(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=str(tmp_path)):
        RunRecord.load(tmp_path)
