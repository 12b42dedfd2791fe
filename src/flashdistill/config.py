"""The configuration of a run: the stages' own sections, and what must hold between them.

`load_config` reads a YAML file and overrides, and reports everything wrong in one pass.
`dump_config` writes the resolved configuration back. `config_identity` tells whether two
configurations may share an output directory. Nothing here touches the network, the text, the
teacher or torch.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    field_serializer,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from flashdistill.core.architecture import Architecture, StudentFamily
from flashdistill.core.errors import ConfigError
from flashdistill.core.files import content_key
from flashdistill.core.measurement import Constraint, metric_parts
from flashdistill.core.registry import did_you_mean
from flashdistill.core.section_check import checked_fields, shown
from flashdistill.core.settings import Section
from flashdistill.core.trust import without_password
from flashdistill.core.yaml_source import KeyPath, YamlSource, plain_scalar, read_yaml
from flashdistill.data.settings import CorpusSettings
from flashdistill.distillation.settings import DistillationSettings, FlashSettings, SignalSettings, inherit
from flashdistill.evaluation.finetuning.settings import FinetuneSettings
from flashdistill.execution.settings import ExecutionSettings
from flashdistill.exploration.settings import (
    ConstraintSetting,
    ObjectiveSetting,
    SearchSettings,
    SelectSettings,
    SpaceSettings,
)
from flashdistill.hardware.settings import TargetSettings, inherit_target
from flashdistill.models.settings import TeacherSettings
from flashdistill.training.settings import TrainingSettings

MAX_POSITIONS = StudentFamily().max_positions
"""The longest sequence of any student, in tokens."""

BERT_VOCABULARY = StudentFamily().vocab_size
"""Assumed where only loading the teacher would tell its number of entries."""

CACHE_VARIABLE = "FLASHDISTILL_CACHE"

_TARGET_NAME = re.compile(r"[A-Za-z0-9_-]+")

_WITHOUT_EFFECT_ON_RESULTS = (
    "output",
    "cache",
    "select",
    "search.trials",
    "search.confirm_seeds",
    "signals.disk_gib",
    "signals.memory_gib",
    "finetune",
    "execution",
    "training.device",
    "training.compile",
    "training.micro_batch_size",
)
"""Keys that may change between two runs into one output directory: places, devices, workers and memory, how
many more architectures to try, which of the results to distil in full, what these are fine-tuned on.
Not the name: the study bears it."""


def _parse_architecture(value: object) -> object:
    return value if isinstance(value, Architecture) else Architecture.parse(value)  # type: ignore[arg-type]


def _no_repeats(tasks: list[str]) -> list[str]:
    if len(set(tasks)) < len(tasks):
        raise ValueError("each task may be named once")
    return tasks


def _expand_home(path: Path) -> Path:
    return path.expanduser()


ArchitectureSetting = Annotated[Architecture, BeforeValidator(_parse_architecture), PlainSerializer(str)]
Tasks = Annotated[list[Literal["mlm", "nsp"]], Field(min_length=1), AfterValidator(_no_repeats)]
Place = Annotated[Path, AfterValidator(_expand_home), PlainSerializer(str)]


class RunConfig(Section):
    """Everything one run depends on.

    ``regular`` takes from ``flash`` what it leaves out, budgets aside; ``output`` is
    ``runs/NAME`` unless given.
    """

    name: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
    seed: int = Field(0, ge=0, le=2**63 - 1)
    teacher: TeacherSettings
    corpus: CorpusSettings
    tasks: Tasks = Field(["mlm", "nsp"])
    space: SpaceSettings = SpaceSettings.model_validate({})
    baseline: ArchitectureSetting = Field(description="what students are compared with; need not be in the space")
    target: TargetSettings = TargetSettings.model_validate({})
    further_targets: dict[str, TargetSettings] = Field(
        default_factory=dict, description="metrics there are called METRIC@NAME; what is left out is taken from target"
    )
    objectives: list[ObjectiveSetting] = Field(
        [{"maximize": "mlm_accuracy"}, {"minimize": "latency_ms"}],  # type: ignore[list-item]
        min_length=1,
    )
    constraints: list[ConstraintSetting] = Field(default_factory=list)
    search: SearchSettings = SearchSettings.model_validate({})
    flash: FlashSettings
    regular: DistillationSettings
    signals: SignalSettings = SignalSettings.model_validate({})
    training: TrainingSettings = TrainingSettings.model_validate({})
    execution: ExecutionSettings = ExecutionSettings.model_validate({})
    select: SelectSettings = SelectSettings.model_validate({})
    finetune: FinetuneSettings | None = Field(None, description="what `flashdistill evaluate` does with the results")
    output: Place = Field(description="the run directory, relative to the working directory")
    cache: Place | None = Field(None, description="null: $FLASHDISTILL_CACHE, else ~/.cache/flashdistill")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: Any) -> Any:
        return _filled(raw) if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = [f"{path[0]}: {message}" for path, message in _disagreements(dict(self))]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @field_serializer("constraints")
    def _exact_bounds(self, constraints: list[Constraint]) -> list[str]:
        # A constraint prints its bound rounded; the resolved configuration needs all digits.
        return [f"{one.metric} {one.op} {one.bound!r}{'x' if one.relative else ''}" for one in constraints]

    @property
    def cache_directory(self) -> Path:
        """Where prepared teachers, tokenised text and exported graphs are kept between runs."""
        if self.cache is not None:
            return self.cache
        return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/flashdistill").expanduser()

    def student_family(self, vocab_size: int, pad_token_id: int = 0) -> StudentFamily:
        """What all students of this run share, for a teacher of ``vocab_size`` entries."""
        depths = self.space.num_blocks
        return StudentFamily(
            template=self.space.template,
            num_blocks=depths[0] if len(depths) == 1 else self.baseline.num_blocks or max(depths),
            vocab_size=vocab_size,
            embedding_size=self.space.embedding_size,
            max_positions=MAX_POSITIONS,
            pad_token_id=pad_token_id,
        )

    @property
    def expected_vocab_size(self) -> tuple[int, bool]:
        """The teacher's number of entries, and whether the configuration alone determines it.

        Where it does not, BERT's 30522 is the assumption; a kept vocabulary may turn out a
        little larger or smaller than asked.
        """
        if self.teacher.pretrain is not None:
            return self.teacher.pretrain.vocab_size, True
        if self.teacher.vocabulary is not None:
            return self.teacher.vocabulary, True
        return BERT_VOCABULARY, False


def load_config(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read a configuration, apply ``dotted.key=YAML value`` overrides, check everything.

    Raises:
        ConfigError: with every problem that was found, each with its file and line or override.
    """
    source = read_yaml(Path(path))
    for override in overrides:
        source.override(override)
    raw = _filled(source.values)
    unreadable = {problem.key for problem in source.problems}
    checked = YamlSource(raw, source.origins)
    values, _ = checked_fields(RunConfig, raw, (), checked)
    # Names suffice to tell which metrics there can be, whatever is wrong inside.
    names = further if isinstance(further := raw.get("further_targets"), dict) else ()
    for place, message in _disagreements({"further_targets": dict.fromkeys(map(str, names))} | values):
        checked.report(place, message)
    inherited = _inherited(source.values, raw)
    problems = source.problems + [
        problem
        for problem in checked.problems
        # What could not be read or was inherited has been reported where it stands.
        if problem.key not in unreadable and not _is_at(problem.key, inherited)
    ]
    if problems:
        order = {f"override {override!r}": rank for rank, override in enumerate(overrides)}
        raise ConfigError(sorted(problems, key=lambda problem: (order.get(problem.file, -1), problem.line or 0)))
    return RunConfig.model_validate(values)


def _is_at(key: str, places: list[str]) -> bool:
    """Whether a dotted key is one of these places, or lies inside one."""
    return any(key == place or key.startswith((f"{place}.", f"{place}[")) for place in places)


def _inherited(given: Mapping[str, Any], filled: Mapping[str, Any]) -> list[str]:
    """The dotted keys whose values were taken from another section."""
    pairs = {"regular": (given.get("regular"), filled.get("regular"))}
    if isinstance(targets := given.get("further_targets"), dict):
        pairs |= {f"further_targets.{name}": (own, filled["further_targets"][name]) for name, own in targets.items()}
    return [
        f"{section}.{key}"
        for section, (own, full) in pairs.items()
        if isinstance(own, dict) and isinstance(full, dict)
        for key in full
        if key not in own
    ]


def _filled(raw: dict[str, Any]) -> dict[str, Any]:
    """Raw values with those keys that follow from others."""
    filled = dict(raw)
    flash, regular = raw.get("flash"), raw.get("regular")
    if isinstance(flash, dict) and isinstance(regular, dict):
        filled["regular"] = inherit(regular, flash)
    target, further = raw.get("target", {}), raw.get("further_targets")
    if isinstance(target, dict) and isinstance(further, dict):
        filled["further_targets"] = {
            name: inherit_target(own, target) if isinstance(own, dict) else own for name, own in further.items()
        }
    # A missing name is a problem of its own; it does not make a missing output of it.
    filled.setdefault("output", f"runs/{raw.get('name', 'unnamed')}")
    return filled


def _disagreements(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """What does not fit between sections, as far as they are valid themselves."""
    yield from _task_problems(values)
    yield from _target_problems(values.get("further_targets", {}))
    yield from _length_problems(values)
    if "space" in values:
        yield from _space_problems(values["space"])
        yield from _relation_problems(values)
        if "baseline" in values and (message := architecture_misfit(values["baseline"], values["space"])):
            yield ("baseline",), f"got {values['baseline']}, {message}"


def _task_problems(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    tasks = values.get("tasks", ["mlm", "nsp"])
    if "mlm" not in tasks:
        yield ("tasks",), f"got {shown(tasks)}, allowed: [mlm] or [mlm, nsp]; students are distilled on mlm"
    seen: set[str] = set()
    for section in ("objectives", "constraints"):
        for index, wanted in enumerate(values.get(section, ())):
            if wanted.metric == "nsp_accuracy" and "nsp" not in tasks:
                yield (section, index), "nsp_accuracy needs the task nsp; add it to tasks"
            if message := _unknown_target(wanted.metric, values.get("further_targets", {})):
                yield (section, index), message
            if section == "objectives" and wanted.metric in seen:
                yield (section, index), f"{wanted.metric} is an objective already; name each metric once"
            seen.add(wanted.metric)


def _unknown_target(metric: str, targets: Mapping[str, Any]) -> str | None:
    name = metric_parts(metric)[1]
    if name is None or name in targets:
        return None
    known = ", ".join(targets) or "none yet"
    return f"got {metric}, but further_targets has no {name!r}{did_you_mean(name, targets)} (there: {known})"


def _target_problems(targets: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for name in targets:
        if not _TARGET_NAME.fullmatch(name):
            yield ("further_targets", name), f"got the name {name!r}, allowed: letters, digits, - and _"


def _length_problems(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    lengths = [(("corpus", "max_length"), values.get("corpus")), (("target", "sequence_length"), values.get("target"))]
    lengths.append((("finetune", "max_length"), values.get("finetune")))
    further = values.get("further_targets", {}).items()
    lengths += [(("further_targets", name, "sequence_length"), target) for name, target in further]
    for place, section in lengths:
        length = getattr(section, place[-1], None) or 0
        if length > MAX_POSITIONS:
            yield place, f"got {length}, allowed: at most {MAX_POSITIONS}, the students' positions"


def _space_problems(space: SpaceSettings) -> Iterator[tuple[KeyPath, str]]:
    if all(bottleneck % heads for bottleneck in space.bottleneck_size for heads in space.num_heads):
        yield (
            ("space", "num_heads"),
            f"got {shown(space.num_heads)}, but none divides any bottleneck_size of {shown(space.bottleneck_size)}, "
            "so no architecture is possible",
        )


def _relation_problems(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    sizes = set(values["space"].bottleneck_size)
    if "baseline" in values:
        sizes.add(values["baseline"].bottleneck_size)
    for section in ("flash", "regular"):
        losses = getattr(values.get(section), "losses", None)
        if losses is None or not losses.relations:
            continue
        if indivisible := sorted(size for size in sizes if size % losses.relation_heads):
            yield (
                (section, "losses", "relation_heads"),
                f"got {losses.relation_heads}, which does not divide the bottleneck size {indivisible[0]}; "
                "relations are formed in equal parts of it",
            )


def architecture_misfit(architecture: Architecture, space: SpaceSettings) -> str | None:
    """Why an architecture cannot be built beside those of ``space``; None if it can.

    It need not be a point of the space.
    """
    if architecture.hidden_size < space.embedding_size:
        return f"whose hidden size {architecture.hidden_size} is below space.embedding_size {space.embedding_size}"
    depths = space.num_blocks
    if len(depths) > 1 and architecture.num_blocks is None:
        return f"but space.num_blocks has several depths; write one of them too, as in {architecture}_{max(depths)}"
    if len(depths) == 1 and architecture.num_blocks == depths[0]:
        without = "_".join(map(str, architecture.values()[:5]))
        return f"but {depths[0]} blocks are what every architecture of this space has; write {without}"
    return None


def dump_config(config: RunConfig, versions: Mapping[str, str] | None = None) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal one.

    But for the password of ``search.storage``, which is left out. ``versions`` (of Python,
    FlashDistill and its libraries) become comments at the top.
    """
    lines = ["# The resolved configuration of a FlashDistill run: every default is written out."]
    lines += [f"# {name}: {' '.join(str(version).split())}" for name, version in (versions or {}).items()]
    stream = io.StringIO()
    yaml = YAML(pure=True)
    yaml.Representer = _ExplicitNulls
    yaml.default_flow_style = None
    yaml.width = 10_000
    yaml.dump(_quoted(as_kept(config)), stream)
    return "\n".join(lines) + "\n" + stream.getvalue()


def as_kept(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain values, without passwords."""
    values = config.model_dump(mode="json", by_alias=True)
    if (storage := config.search.storage) is not None:
        values["search"]["storage"] = without_password(storage)
    return values


class _ExplicitNulls(RoundTripRepresenter):
    """Writes ``null`` where the library would leave the value out."""


_ExplicitNulls.add_representer(type(None), lambda it, _: it.represent_scalar("tag:yaml.org,2002:null", "null"))


def _quoted(value: Any) -> Any:
    """Quote every text that, bare, would be read back as something else."""
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    if isinstance(value, str) and not isinstance(plain_scalar(value), str):
        return DoubleQuotedScalarString(value)
    return value


def config_identity(config: RunConfig) -> str:
    """A short hash of what determines the results of a run.

    An output directory belongs to one identity. Places are left out, and so are
    ``search.trials`` and ``select``: a finished search may be extended or selected from anew.
    """
    return content_key("run", _identifying(config))


def config_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """``KEY: was OLD, is NEW`` for every key in which the identities differ."""
    before, after = _identifying(old), _identifying(new)
    absent = object()
    return [
        f"{key}: was {_side(before.get(key, absent), absent)}, is {_side(after.get(key, absent), absent)}"
        for key in [*before, *(key for key in after if key not in before)]
        if before.get(key, absent) != after.get(key, absent)
    ]


def _side(value: object, absent: object) -> str:
    return "absent" if value is absent else shown(value)


def _identifying(config: RunConfig) -> dict[str, Any]:
    """Leaf values by dotted key, without those that have no effect on results."""
    return {
        key: value
        for key, value in _leaves(as_kept(config), "")
        if not any(key == free or key.startswith(f"{free}.") for free in _WITHOUT_EFFECT_ON_RESULTS)
    }


def _leaves(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
