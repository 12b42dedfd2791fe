"""What the verbs of the command line share: arguments, and how an error ends a command."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flashdistill.core.errors import FlashDistillError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Verbs(TyperGroup):
    """Turns errors into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FlashDistillError as error:
            complain(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            complain("stopped; the same command resumes")
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if hasattr(error, "format_message"):  # a usage error, which typer words itself
                raise
            if isinstance(error, OSError) and error.strerror:  # a file that is not ours to read, a disk that fails
                complain(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error.strerror}")
                raise typer.Exit(1) from None
            traceback.print_exc()
            complain(f"error: unexpected {type(error).__name__}: {error}; please report it with the traceback above")
            raise typer.Exit(1) from None


def complain(text: str) -> None:
    typer.secho(text, fg="red" if sys.stderr.isatty() else None, err=True)


Config = Annotated[Path, typer.Argument(help="The run's YAML file.", metavar="CONFIG", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Dotted keys and YAML values, e.g. search.trials=20", metavar="KEY=VALUE"),
]
Output = Annotated[Path | None, typer.Option("--output", help="Run directory in place of the configured one.")]
ConfigOption = Annotated[Path, typer.Option("--config", help="The run's YAML file.")]
Run = Annotated[Path, typer.Argument(help="The run's directory.", metavar="RUN", show_default=False)]

# What `plan` cannot know by itself.
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help="l4, a100, h100, h200, tpu-v4, or `this`, which is measured; may be repeated."),
]
FlopsPerSecond = Annotated[
    float | None, typer.Option("--flops-per-s", help="What a device sustains in such trainings, instead.", min=1)
]
TeacherSizes = Annotated[
    str | None,
    typer.Option("--teacher-shape", help="Layers, hidden, intermediate, vocabulary, heads: 12x768x3072x30522x12"),
]
TextBytes = Annotated[
    float | None, typer.Option("--text-bytes", help="Of the corpus, where its files do not tell.", min=1)
]
