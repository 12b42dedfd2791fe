"""``flashdistill plan CONFIG``: what a run will cost, before it starts. Nothing is trained or downloaded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from flashdistill.config import RunConfig
from flashdistill.core.errors import InputError
from flashdistill.core.progress import Progress, tracked
from flashdistill.hardware.doctor import peak_requests
from flashdistill.hardware.hosts import LocalHost
from flashdistill.hardware.machine import gpus
from flashdistill.hardware.peaks import measure_on
from flashdistill.planning.devices import DEVICES, THIS_MACHINE, Device, named_device
from flashdistill.planning.planner import Planner
from flashdistill.planning.run_plan import RunPlan
from flashdistill.planning.teacher_shape import TeacherShape, teacher_shape
from flashdistill.preflight import quiet_libraries, require_feasible
from flashdistill.results import MEASURED_PER_TRAINED


def plan_run(
    config: RunConfig,
    progress: Progress,
    *,
    devices: Sequence[str] = (),
    flops_per_s: float | None = None,
    teacher: str | None = None,
    text_bytes: float | None = None,
) -> RunPlan:
    """Plan a run.

    Args:
        devices: names of `DEVICES`, or ``this``, which is measured (about ten seconds); none: all of the table.
        flops_per_s: what a device sustains in such trainings, instead.
        teacher: the teacher's sizes as `TeacherShape.parse` reads them; None: from its configuration.
        text_bytes: of the corpus, where its files do not tell.

    Raises:
        InputError: an option cannot be understood, or the teacher is not on this machine.
        TeacherError, CorpusError: the teacher or the text is missing.
        NothingFeasibleError: the limits on size exclude every architecture.
    """
    if devices and flops_per_s is not None:
        raise InputError("--device and --flops-per-s exclude each other; give one of them")
    named = [None if name == THIS_MACHINE else named_device(name) for name in dict.fromkeys(devices)]
    quiet_libraries()
    shape = TeacherShape.parse(teacher) if teacher is not None else teacher_shape(config.teacher)
    require_feasible(config, shape.vocab_size)
    chosen = [one or _this_machine(progress) for one in named] if named else list(DEVICES.values())
    return Planner(config, shape, MEASURED_PER_TRAINED, text_bytes).plan(chosen, flops_per_s)


def _this_machine(progress: Progress) -> Device:
    """This machine as training uses it: its first GPU, else all of its cores.

    Raises:
        TargetError: it cannot be measured.
    """
    request = peak_requests(gpus())[-1]
    with (
        tracked(progress, "measure this machine's peaks"),
        tempfile.TemporaryDirectory() as scratch,
        LocalHost(Path(scratch, "store"), progress) as host,
        host.locked(request.device),
    ):
        peaks = measure_on(host, request, Path(scratch, "peaks.log"))
    half = peaks.matrix.get("bfloat16") if request.device != "cpu" else None
    precision = "float32" if half is None or half.emulated else "bfloat16"
    threads = "" if request.device != "cpu" else f", {peaks.threads} thread{'s' * (peaks.threads > 1)}"
    memory = psutil.virtual_memory().total if request.device == "cpu" else None
    return Device(
        name=f"this machine{threads}",
        precision=precision,
        peak_flops_per_s=peaks.matrix[precision].flops_per_s,
        bytes_per_s=peaks.bytes_per_s,
        memory_bytes=memory,
        source=f"measured{' while others used it' * peaks.busy}: {peaks.device_name}",
    )
