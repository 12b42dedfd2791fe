"""Showing here what a worker has to say."""

from __future__ import annotations

import logging

from flashdistill.core.progress import Progress
from flashdistill.execution.child import Logged, Told


class Reports:
    """The progress of one job, and its log records."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._open: dict[str, None] = {}

    def show(self, report: Told | Logged) -> None:
        if isinstance(report, Logged):
            logging.getLogger(report.record.name).handle(report.record)
            return
        if report.method == "start":
            self._open[report.arguments[0]] = None
        elif report.method == "finish":
            self._open.pop(report.arguments[0], None)
        getattr(self._progress, report.method)(*report.arguments)

    def end(self) -> None:
        """Finish what the job has begun to show and cannot finish any more."""
        for task in self._open:
            self._progress.finish(task)
        self._open.clear()
