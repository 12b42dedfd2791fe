"""Progress as plain lines, as bars and in the log file."""

import io
import re

import pytest
from rich.console import Console

from flashdistill.console import LINE_INTERVAL, ConsoleProgress
from flashdistill.core.errors import TeacherError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(clock) -> tuple[ConsoleProgress, io.StringIO]:
    stream = io.StringIO()
    return ConsoleProgress(Console(file=stream, force_terminal=False, width=200), clock), stream


def terminal(clock) -> tuple[ConsoleProgress, io.StringIO]:
    stream = io.StringIO()
    return ConsoleProgress(Console(file=stream, force_terminal=True, width=120), clock), stream


def logged(path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d ")
    assert all(stamp.match(line) for line in lines)
    return [stamp.sub("", line) for line in lines]


def test_plain_lines_come_at_intervals(clock):
    progress, stream = plain(clock)
    with progress:
        progress.start("flash distillation", 120)
        for _ in range(60):
            clock.now += LINE_INTERVAL / 20
            progress.advance("flash distillation", note="loss 1.5")
        clock.now += 90
        progress.finish("flash distillation")
    assert stream.getvalue().splitlines() == [
        "flash distillation: started, 120 steps",
        "flash distillation: 20 of 120 steps (17%), about 0:50 left; loss 1.5",
        "flash distillation: 40 of 120 steps (33%), about 0:40 left; loss 1.5",
        "flash distillation: 60 of 120 steps (50%), about 0:30 left; loss 1.5",
        "flash distillation: ended after 2:00, 60 of 120 steps; loss 1.5",
    ]


def test_a_task_without_total_and_one_that_was_not_started(clock):
    progress, stream = plain(clock)
    progress.finish("never began")
    progress.advance("reading", 3)
    clock.now = 3725
    progress.advance("reading", 2000)
    progress.finish("reading")
    assert stream.getvalue().splitlines() == [
        "reading: started",
        "reading: 2,003 steps in 1:02:05",
        "reading: ended after 1:02:05, 2,003 steps",
    ]


def test_messages_are_shown_as_they_are(clock):
    progress, stream = plain(clock)
    progress.message("[bold]not markup[/bold] 512_128_4 " + "x" * 300)
    assert stream.getvalue() == "[bold]not markup[/bold] 512_128_4 " + "x" * 300 + "\n"


def test_the_status_is_a_line_when_it_changes(clock):
    progress, stream = plain(clock)
    for text in ("front: 2", "front: 2", "front: 3"):
        progress.status(text)
    assert stream.getvalue().splitlines() == ["front: 2", "front: 3"]


def test_the_log_opens_with_what_was_said_before_it(clock, tmp_path):
    progress, _ = plain(clock)
    progress.message("before")
    progress.attach_log(tmp_path / "log.txt")
    assert progress.log_path == tmp_path / "log.txt"
    progress.start("teacher", 5)
    progress.message("after: ü")
    assert logged(tmp_path / "log.txt") == ["before", "teacher: started, 5 steps", "after: ü"]


def test_a_resumed_run_appends(clock, tmp_path):
    for text in ("first", "second"):
        progress, _ = plain(clock)
        progress.attach_log(tmp_path / "log.txt")
        progress.message(text)
    assert logged(tmp_path / "log.txt") == ["first", "second"]


def test_a_terminal_shows_bars_and_the_status_and_logs_plain_lines(clock, tmp_path):
    progress, stream = terminal(clock)
    with progress:
        progress.attach_log(tmp_path / "log.txt")
        progress.start("flash [x]", 10)
        progress.advance("flash [x]", 4, note="loss 2.5")
        progress.status("front: 256_64_2_256_2")
        progress.message("trial 3 is complete")
        assert progress._bars is not None
        progress._bars.refresh()
        progress.start("flash [x]", 10)  # the same name starts again: one bar, not two
        assert len(progress._bars.tasks) == 1
        shown = stream.getvalue()
        progress.finish("flash [x]")
        assert progress._bars.tasks == []
    for text in ("flash [x]", "4/10", "loss 2.5", "front: 256_64_2_256_2", "trial 3 is complete"):
        assert text in shown
    assert logged(tmp_path / "log.txt") == [
        "flash [x]: started, 10 steps",
        "front: 256_64_2_256_2",
        "trial 3 is complete",
        "flash [x]: started, 10 steps",
        "flash [x]: ended after 0:00",
    ]


def test_an_exception_goes_into_the_log(clock, tmp_path):
    progress, _ = plain(clock)

    def broken():
        with progress:
            progress.attach_log(tmp_path / "log.txt")
            raise RuntimeError("nonsense")

    with pytest.raises(RuntimeError) as caught:
        broken()
    assert "RuntimeError: nonsense" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert caught.value.__notes__ == [f"(also in {tmp_path}/log.txt)"]


def test_an_error_on_purpose_is_one_line_in_the_log(clock, tmp_path):
    progress, _ = plain(clock)

    def failing():
        with progress:
            progress.attach_log(tmp_path / "log.txt")
            raise TeacherError("no tokenizer")

    with pytest.raises(TeacherError) as caught:
        failing()
    assert logged(tmp_path / "log.txt") == ["error: no tokenizer"]
    assert not hasattr(caught.value, "__notes__")


def test_a_log_that_cannot_be_written_does_not_hide_the_error(clock, tmp_path):
    progress, _ = plain(clock)

    def failing():
        with progress:
            progress.attach_log(tmp_path / "log.txt")
            (tmp_path / "log.txt").unlink()
            (tmp_path / "log.txt").mkdir()
            raise RuntimeError("the cause")

    with pytest.raises(RuntimeError, match="the cause"):
        failing()


def test_the_user_stopping_it_is_one_line(clock, tmp_path):
    progress, _ = plain(clock)

    def stopped():
        with progress:
            progress.attach_log(tmp_path / "log.txt")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert logged(tmp_path / "log.txt") == ["stopped by the user"]
