"""No source file unpickles, evaluates, or starts a shell, and what loads models says that it trusts nobody."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for place in ("src", "benchmarks", "reproduce") for path in (ROOT / place).rglob("*.py"))

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "imp", "telnetlib"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execvp", "torch.load", "torch.hub.load",
    "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "tempfile.mktemp", "socketserver.TCPServer",
}  # fmt: skip
EXECUTION = "src/flashdistill/execution/"
"""Messages between a run and the processes that it has started itself, over pipes that nobody else has an
end of, or over its Ray cluster, which runs whatever its members send it. Nothing there comes from a file."""

PUBLIC_ADDRESSES = {"0.0.0.0", "::"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for a name or an attribute of names; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def keywords(call: ast.Call) -> dict[str, object]:
    """Those with a constant value; others as None."""
    return {
        one.arg: one.value.value if isinstance(one.value, ast.Constant) else None
        for one in call.keywords
        if one.arg is not None
    }


def dangers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {one.name}" for one in node.names if one.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield f"import {node.module}"
        elif isinstance(node, ast.Constant) and node.value in PUBLIC_ADDRESSES:
            yield f"the address {node.value}"
        elif isinstance(node, ast.Call):
            yield from _dangers_of_call(node)


def _dangers_of_call(call: ast.Call) -> Iterator[str]:
    name, given = dotted(call.func), keywords(call)
    last = name.rpartition(".")[2] or (call.func.attr if isinstance(call.func, ast.Attribute) else "")
    if name in FORBIDDEN_CALLS:
        yield name
    if given.get("shell", False) is not False:
        yield "a shell"
    if given.get("trust_remote_code", False) is not False:
        yield "trust_remote_code"
    if given.get("allow_pickle", False) is not False or (
        name in ("np.load", "numpy.load") and "allow_pickle" not in given
    ):
        yield "allow_pickle"
    if given.get("weights_only", True) is not True:
        yield "weights_only"
    if last == "from_pretrained":
        if given.get("local_files_only") is not True:
            yield "from_pretrained without local_files_only=True"
        if "Tokenizer" not in name and given.get("use_safetensors") is not True:
            yield "from_pretrained without use_safetensors=True"
    if name.startswith("subprocess.") and call.args and isinstance(call.args[0], ast.Constant | ast.JoinedStr):
        yield "a command as one string"
    if last == "YAML" and given.get("typ") == "unsafe":
        yield "unsafe YAML"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_is_free_of_danger(path: Path) -> None:
    found = set(dangers(parsed(path)))
    if path.relative_to(ROOT).as_posix().startswith(EXECUTION):
        found -= {"import pickle"}
    assert found == set()


@pytest.mark.parametrize(
    ("code", "danger"),
    [
        ("import pickle", "import pickle"),
        ("from dill import loads", "import dill"),
        ("torch.load(path)", "torch.load"),
        ("np.load(path)", "allow_pickle"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("np.load(path, allow_pickle=really)", "allow_pickle"),
        ("eval(text)", "eval"),
        ("subprocess.run('ls', shell=True)", "a shell"),
        ("subprocess.run(f'ls {path}')", "a command as one string"),
        ("AutoTokenizer.from_pretrained(path)", "from_pretrained without local_files_only=True"),
        ("AutoModel.from_pretrained(path, local_files_only=True)", "from_pretrained without use_safetensors=True"),
        ("f(trust_remote_code=True)", "trust_remote_code"),
        ("serve('0.0.0.0')", "the address 0.0.0.0"),
        ("YAML(typ='unsafe')", "unsafe YAML"),
    ],
)
def test_the_dangers_are_seen(code: str, danger: str) -> None:
    assert danger in list(dangers(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "np.load(path, allow_pickle=False)",
        "torch.compile(model)",
        "subprocess.run(['ls', path], check=True)",
        "AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)",
    ],
)
def test_what_is_safe_is_left_alone(code: str) -> None:
    assert list(dangers(ast.parse(code))) == []


def test_the_hub_is_asked_in_few_places() -> None:
    """Everything else is read from this machine: each of these has a hub id from the user's hand."""
    asking = {"snapshot_download", "hf_hub_download", "load_dataset", "load_dataset_builder", "HfApi"}
    found = {
        str(path.relative_to(ROOT / "src" / "flashdistill"))
        for path in SOURCES
        if path.is_relative_to(ROOT / "src")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in asking
    }
    assert found == {
        "data/readers/huggingface.py",  # corpus.source.dataset
        "data/tasks/hub.py",  # a task by its public name
        "models/foreign.py",  # teacher.model, and models to fine-tune
        "planning/teacher_shape.py",  # the hub's cache on this machine alone
    }
