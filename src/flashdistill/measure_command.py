"""Measuring on the configured targets outside of a run: architectures, and models in directories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flashdistill.config import RunConfig
from flashdistill.core.architecture import Architecture
from flashdistill.core.measurement import Measurement
from flashdistill.core.progress import Progress, tracked
from flashdistill.models.parameter_count import count_parameters
from flashdistill.preflight import quiet_libraries
from flashdistill.scales import Scales

Subject = Architecture | Path
"""An architecture, measured with random weights, or the directory of a `transformers` encoder."""


def measure(
    config: RunConfig, subjects: Sequence[Subject], progress: Progress
) -> Iterator[tuple[Subject, dict[str, Measurement]]]:
    """Measure every subject on all targets, relative to the baseline; what is known comes from the cache.

    Raises:
        TargetError: a target cannot run a subject.
        TeacherError: a directory holds no encoder.
    """
    quiet_libraries()
    vocabulary, known = config.expected_vocab_size
    if not known:
        progress.message(f"assuming a vocabulary of {vocabulary:,} entries; it hardly matters to the latency")
    family = config.student_family(vocabulary)
    with Scales(config, family, config.cache_directory / "scales" / str(config.baseline), progress) as scales:
        for subject in subjects:
            with tracked(progress, f"measure {subject}"):
                measured = scales.measure(subject)
            if isinstance(subject, Architecture):
                parameters = count_parameters(subject, family)
                measured["num_parameters"] = Measurement.of("num_parameters", parameters)
            yield subject, measured
