"""The command line: verbs that read a configuration and call the pipeline.

Nothing heavy is imported before a verb needs it: ``check`` answers within a second because it
never meets torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flashdistill.cli_options import (
    Config,
    ConfigOption,
    Devices,
    FlopsPerSecond,
    Kind,
    Latency,
    Models,
    Output,
    Overrides,
    Rows,
    Run,
    Scratch,
    TaskConfig,
    TaskNames,
    TaskTeacher,
    TeacherSizes,
    TextBytes,
    Verbs,
)
from flashdistill.core.errors import InputError

if TYPE_CHECKING:
    from flashdistill.config import RunConfig
    from flashdistill.core.architecture import Architecture
    from flashdistill.core.run_directory import RunDirectory

app = typer.Typer(
    cls=Verbs,
    help="Explore and distil language models that are fast on the hardware that serves them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the command ``flashdistill``."""
    app(prog_name="flashdistill")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"flashdistill {version('flashdistill')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None: ...


@app.command()
def run(config: Config, overrides: Overrides = None, output: Output = None) -> None:
    """Run the whole pipeline: search, distil, deliver, report. The same command resumes."""
    _pipeline_run(_load(config, overrides, output), until="delivery")


@app.command()
def check(config: Config, overrides: Overrides = None, output: Output = None) -> None:
    """Say everything that is wrong with a configuration, and what it would do. Trains nothing."""
    from flashdistill.preview import preview

    loaded = _load(config, overrides, output)
    text, nothing_feasible = preview(loaded)
    typer.echo(f"{config}: configuration is valid\n\n{text}")
    if nothing_feasible is not None:
        raise nothing_feasible


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    device: Devices = None,
    flops_per_s: FlopsPerSecond = None,
    teacher_shape: TeacherSizes = None,
    text_bytes: TextBytes = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the plan to this file too.")] = None,
) -> None:
    """Say what a run will cost: steps, operations, memory, disk, hours on devices. Trains and downloads nothing."""
    loaded = _load(config, overrides)

    from flashdistill.console import ConsoleProgress
    from flashdistill.plan_command import plan_run
    from flashdistill.plan_text import print_plan

    with ConsoleProgress() as progress:
        made = plan_run(
            loaded,
            progress,
            devices=device or [],
            flops_per_s=flops_per_s,
            teacher=teacher_shape,
            text_bytes=text_bytes,
        )
    print_plan(made)
    if json is not None:
        from flashdistill.core.files import write_json
        from flashdistill.delivery.json_form import encode

        write_json(json, encode(made))


@app.command()
def explore(config: Config, overrides: Overrides = None, output: Output = None) -> None:
    """Search only; `run` with the same configuration goes on from there."""
    _pipeline_run(_load(config, overrides, output), until="search")


@app.command()
def measure(
    architectures: Annotated[
        list[str] | None,
        typer.Argument(
            help="Architectures, e.g. 512_128_4_512_4, or directories of transformers encoders; overrides may follow.",
            metavar="ARCH",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The run's YAML file.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the measurements to this file too.")] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Test the measurements themselves: on CONFIG's target and space, else the paper's on ONNX Runtime.",
        ),
    ] = False,
) -> None:
    """Measure architectures (with random weights) or models on the targets, against the baseline."""
    names = [argument for argument in architectures or () if "=" not in argument]
    overrides = [argument for argument in architectures or () if "=" in argument]
    if self_test:
        _self_test(names, config, overrides, json)
        return
    if config is None:
        raise InputError("name the run's YAML file with --config")
    loaded = _load(config, overrides)
    if not names:
        raise InputError("name at least one architecture, for example 512_128_4_512_4")
    subjects = [Path(name) if Path(name).is_dir() else _architecture(name, loaded) for name in names]

    from flashdistill import measure_command
    from flashdistill.console import ConsoleProgress
    from flashdistill.terminal_text import measurement_table

    with ConsoleProgress() as progress:
        results = list(measure_command.measure(loaded, subjects, progress))
    typer.echo(measurement_table(results))
    if json is not None:
        from flashdistill.core.files import write_json
        from flashdistill.delivery.json_form import encode

        write_json(json, [{"architecture": str(one), "measurements": encode(found)} for one, found in results])


@app.command()
def distill(
    architecture: Annotated[str, typer.Argument(help="E.g. 512_128_4_512_4", metavar="ARCH", show_default=False)],
    config: ConfigOption,
    overrides: Overrides = None,
    output: Output = None,
) -> None:
    """Distil one architecture with the regular budget and deliver it."""
    loaded = _load(config, overrides, output)
    parsed = _architecture(architecture, loaded)

    from flashdistill import pipeline
    from flashdistill.console import ConsoleProgress

    with ConsoleProgress() as progress:
        delivered = pipeline.distill(loaded, parsed, progress)
    if delivered is not None:  # in the main process, if there are several
        typer.echo(f"model: {delivered}")


@app.command()
def pretrain_teacher(
    config: Config,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="The teacher's directory; teachers/NAME unless given.")
    ] = None,
) -> None:
    """Prepare the configured teacher and keep it: train it from scratch, fit its head, shrink its vocabulary."""
    loaded = _load(config, overrides)

    from flashdistill import teacher_command
    from flashdistill.console import ConsoleProgress

    with ConsoleProgress() as progress:
        made = teacher_command.pretrain_teacher(loaded, output.expanduser() if output else None, progress)
    if made is not None:
        typer.echo("\n".join(f"{name}: {value}" for name, value in made.facts))
        typer.echo(f"\nIn a configuration: {made.yaml}")


@app.command()
def report(run_directory: Run) -> None:
    """Rebuild the report and the plots of a run."""
    _require_run(run_directory)

    from flashdistill import pipeline

    typer.echo(f"report: {pipeline.report(run_directory)}")


@app.command()
def dashboard(
    run_directory: Run,
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1.", min=1, max=65535)] = 8080,
) -> None:
    """Show a run's study in optuna-dashboard, on this machine only; nothing can be changed there."""
    run = _require_run(run_directory)

    from flashdistill import dashboard_command

    dashboard_command.serve(run, port, typer.echo)


@app.command()
def remeasure(
    run_directory: Run,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The new run; default: RUN and what changed in the target."),
    ] = None,
) -> None:
    """Measure all trials of a run again, on another machine or target, into a new run; accuracies are kept."""
    _require_run(run_directory)

    from flashdistill import remeasure_command
    from flashdistill.console import ConsoleProgress

    with ConsoleProgress() as progress:
        made = remeasure_command.remeasure(
            run_directory, output.expanduser() if output else None, overrides or [], progress
        )
    typer.echo(f"run: {made}")


@app.command()
def audit(
    run_directory: Run,
    overrides: Overrides = None,
    architectures: Annotated[
        int, typer.Option("--architectures", help="How many are trained by both budgets.", min=16)
    ] = 16,
    repeats: Annotated[
        int,
        typer.Option("--repeats", help="How many of them are trained with one more seed, to know its noise.", min=0),
    ] = 4,
    on_the_way: Annotated[
        bool, typer.Option("--on-the-way/--ends-only", help="Score flash on the way too, to know how short it may be.")
    ] = True,
    json: Annotated[Path | None, typer.Option("--json", help="Write the audit to this file too.")] = None,
) -> None:
    """Audit a run: does its flash distillation rank students as its regular one does? The same command resumes."""
    _require_run(run_directory)

    from flashdistill import audit_command
    from flashdistill.console import ConsoleProgress
    from flashdistill.delivery.audit_text import audit_lines

    with ConsoleProgress() as progress:
        found = audit_command.audit(
            run_directory,
            overrides or [],
            progress,
            architectures=architectures,
            repeats=repeats,
            on_the_way=on_the_way,
        )
    if found is None:  # in a process that only helps
        return
    typer.echo("\n".join(audit_lines(found)))
    if json is not None:
        from flashdistill.core.files import write_json
        from flashdistill.delivery.json_form import encode

        write_json(json, encode(found))


@app.command()
def finetune(
    models: Models = None,
    task: TaskNames = None,
    data: Rows = None,
    validation: Annotated[str | None, typer.Option("--validation", help="Its validation rows.")] = None,
    test: Annotated[str | None, typer.Option("--test", help="Its test rows.")] = None,
    kind: Kind = None,
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.")] = None,
    pair: Annotated[str | None, typer.Option("--pair", help="Column of the second text of pairs.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the class or value.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Fine-tunings of each model on each task.")] = None,
    teacher: TaskTeacher = None,
    scratch: Scratch = False,
    config: TaskConfig = None,
    latency: Latency = True,
    output: Annotated[Path, typer.Option("--output", help="Where results and models go.")] = Path("finetuned"),
    json: Annotated[Path | None, typer.Option("--json", help="Write the scores to this file too.")] = None,
) -> None:
    """Fine-tune models on tasks and compare them over seeds; deliver the best. The same command resumes."""
    names, overrides = _models_and_overrides(models or [])

    from flashdistill.data.tasks.loading import TASKS
    from flashdistill.finetune_request import TaskOptions, finetune_request

    loaded = None if config is None else _load(config, None)
    files = {"train": data, "validation": validation, "test": test}
    columns = {"text": text, "pair": pair, "label": label}
    options = TaskOptions(task or [], _given(files), kind, _given(columns))
    request = finetune_request(options, overrides, list(TASKS), config=loaded, seeds=seeds, teacher=teacher)

    from flashdistill import finetune_command
    from flashdistill.console import ConsoleProgress
    from flashdistill.delivery.task_text import models_text, tasks_text
    from flashdistill.finetune_models import named_models

    sources = named_models(names, loaded, scratch)
    subjects = {name: finetune_command.Subject(source) for name, source in sources.items()}
    with ConsoleProgress() as progress:
        record = finetune_command.finetune(subjects, request, output.expanduser(), progress, measure=latency)
    if record is None:  # in a process that only helps
        return
    typer.echo(f"{tasks_text(record)}\n\n{models_text(record, output)}")
    if json is not None:
        record.save(json)


@app.command()
def evaluate(
    run_directory: Run,
    overrides: Overrides = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the scores to this file too.")] = None,
) -> None:
    """Fine-tune a run's delivered models and its teacher on finetune.tasks, and add the table to its report."""
    _require_run(run_directory)

    from flashdistill import evaluate_command
    from flashdistill.console import ConsoleProgress
    from flashdistill.delivery.task_text import tasks_text

    with ConsoleProgress() as progress:
        evaluated = evaluate_command.evaluate(run_directory, overrides or [], progress)
    if evaluated is None:  # in a process that only helps
        return
    record, page = evaluated
    typer.echo(f"{tasks_text(record)}\n\nreport: {page}")
    if json is not None:
        record.save(json)


@app.command()
def doctor(
    compile: Annotated[
        bool, typer.Option("--compile", help="Also measure what torch.compile brings; takes up to minutes.")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write what is found to this file too.")] = None,
) -> None:
    """Say what this machine can do: processors, accelerators, runtimes, peaks, warnings."""
    from flashdistill.console import ConsoleProgress
    from flashdistill.hardware.doctor import doctor_report
    from flashdistill.terminal_text import doctor_text
    from flashdistill.training.compute import open_compute
    from flashdistill.training.settings import TrainingSettings
    from flashdistill.training.speed import bfloat16_speedup, compile_speedup

    with ConsoleProgress() as progress:
        report = doctor_report(progress)
        device = open_compute(TrainingSettings.model_validate({})).device
        report["training"] = {
            "device": device.type,
            "bfloat16": bfloat16_speedup(device),
            "compile": compile_speedup(device) if compile else None,
        }
    typer.echo(doctor_text(report))
    if json is not None:
        from flashdistill.core.files import write_json

        write_json(json, report)


def _self_test(names: list[str], config: Path | None, overrides: list[str], json: Path | None) -> None:
    if names:
        raise InputError("--self-test chooses its architectures itself; leave out " + " ".join(names))
    if overrides and config is None:
        raise InputError("overrides change a configuration; name it with --config")
    loaded = None if config is None else _load(config, overrides)

    from flashdistill.console import ConsoleProgress
    from flashdistill.self_test_command import paper_defaults, run_self_test, self_test_text

    with ConsoleProgress() as progress:
        result = run_self_test(loaded or paper_defaults(), progress)
    typer.echo(self_test_text(result))
    if json is not None:
        from flashdistill.core.files import write_json
        from flashdistill.delivery.json_form import encode

        write_json(json, encode(result.as_json()))
    if not result.passed:
        raise typer.Exit(1)


def _models_and_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Models first, then overrides; a directory may have an equals sign in its name."""
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).is_dir()]
    return [argument for argument in arguments if argument not in overrides], overrides


def _given(options: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _load(config: Path, overrides: list[str] | None, output: Path | None = None) -> RunConfig:
    from flashdistill.config import load_config

    loaded = load_config(config, overrides or [])
    return loaded if output is None else loaded.model_copy(update={"output": output.expanduser()})


def _pipeline_run(config: RunConfig, until: Literal["search", "delivery"]) -> None:
    from flashdistill import pipeline
    from flashdistill.console import ConsoleProgress

    with ConsoleProgress() as progress:
        result = pipeline.run(config, progress, until=until)
    if result is not None:  # in the main process, if there are several
        typer.echo(f"report: {result}")


def _architecture(name: str, config: RunConfig) -> Architecture:
    """Parse an architecture that can be built beside those of the configured space.

    Raises:
        InputError: it cannot.
    """
    from flashdistill.config import architecture_misfit
    from flashdistill.core.architecture import Architecture

    try:
        architecture = Architecture.parse(name)
    except ValueError as error:
        raise InputError(str(error)) from None
    if problem := architecture_misfit(architecture, config.space):
        raise InputError(f"got {architecture}, {problem}")
    return architecture


def _require_run(directory: Path) -> RunDirectory:
    """The run in ``directory``.

    Raises:
        InputError: the directory is none.
    """
    from flashdistill.core.run_directory import RunDirectory

    run = RunDirectory(directory)
    if not run.config.is_file():
        raise InputError(f"{directory} is not a run directory: it has no {run.config.name}")
    return run


if __name__ == "__main__":
    main()
