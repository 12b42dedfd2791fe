"""What the verbs of the command line share: arguments, and how an error ends a command."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

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

# What `finetune` is asked.
Models = Annotated[
    list[str] | None,
    typer.Argument(
        help="Delivered students or other transformers directories, hub ids, or architectures (with --config); "
        "overrides may follow, e.g. learning_rate=3e-5 or task.max_train_rows=1000.",
        metavar="MODEL",
    ),
]
TaskNames = Annotated[list[str] | None, typer.Option("--task", help="A public task, e.g. sst2; may be repeated.")]
Rows = Annotated[
    str | None, typer.Option("--data", help="Rows: a table of your own, or --task's files in their public format.")
]
Kind = Annotated[
    Literal["classification", "regression", "question-answering"] | None,
    typer.Option("--kind", help="Of your own rows; classification unless given."),
]
TaskTeacher = Annotated[
    str | None, typer.Option("--teacher", help="Learn from this model too; it is fine-tuned on the task already.")
]
Scratch = Annotated[bool, typer.Option("--scratch", help="Beside each student its architecture with random weights.")]
TaskConfig = Annotated[
    Path | None,
    typer.Option("--config", help="A run's YAML file: finetune, target and training are taken from it."),
]
Latency = Annotated[bool, typer.Option("--latency/--no-latency", help="Measure what is delivered on the target.")]
