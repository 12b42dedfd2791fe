"""The errors a user can cause or meet, each with the exit code of the command line.

    FlashDistillError           exit 1  the run failed
    ├── InputError              exit 2  the user must change something
    │   ├── ConfigError                 the YAML file or an override
    │   ├── CorpusError                 the text
    │   ├── TeacherError                the teacher model or its tokenizer
    │   └── RunDirectoryError           the output directory belongs to something else
    ├── NothingFeasibleError    exit 3  no architecture satisfies the constraints
    ├── TargetError             exit 1  a serving runtime could not load or run an architecture
    └── DivergedError           exit 1  a loss or a gradient stopped being finite

A user's mistake is one clear message that says what to do; the command line prints it
without a traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class FlashDistillError(Exception):
    """Base of every error that FlashDistill raises on purpose."""

    exit_code = 1


class InputError(FlashDistillError):
    """The user must change an input before the run can start."""

    exit_code = 2


@dataclass(frozen=True)
class ConfigProblem:
    """One thing wrong with a configuration.

    ``key`` is dotted (``space.num_heads``); ``line`` counts from 1 and is None where the value
    came from an override or from a default.
    """

    key: str
    message: str
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"


class ConfigError(InputError):
    """Everything wrong with a configuration, found in one pass."""

    def __init__(self, problems: list[ConfigProblem] | str):
        if isinstance(problems, str):
            problems = [ConfigProblem("", problems)]
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class CorpusError(InputError):
    """The text is missing, unreadable or too short; names the file and the position."""


class TeacherError(InputError):
    """The teacher cannot be used as it is; names the model and what it lacks."""


class RunDirectoryError(InputError):
    """The output directory is in use or belongs to another configuration."""


class NothingFeasibleError(FlashDistillError):
    """No architecture satisfies the constraints; names the nearest violators."""

    exit_code = 3


class TargetError(FlashDistillError):
    """A serving runtime failed on an architecture; names the target and the architecture."""


class DivergedError(FlashDistillError):
    """A loss or a gradient is not finite; names the stage, the step and the last good loss."""


def first_line(error: BaseException) -> str:
    """What a library says went wrong, in one line; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
