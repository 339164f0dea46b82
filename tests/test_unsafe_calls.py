"""Nothing in src can act on what a foreign file says: no pickle, no eval, no shell, no unsafe fallback of a loader."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "dlrun"
FILES = sorted(SOURCE.rglob("*.py"))

BANNED_CALLS = {
    "builtins.eval": "runs text as code",
    "builtins.exec": "runs text as code",
    "eval": "runs text as code",
    "exec": "runs text as code",
    "marshal.load": "runs code from a file",
    "marshal.loads": "runs code from a file",
    "os.popen": "runs a shell",
    "os.system": "runs a shell",
    "pickle.Unpickler": "runs code from a file",
    "pickle.load": "runs code from a file",
    "pickle.loads": "runs code from a file",
    "tempfile.mktemp": "a name that another process can take",
    "torch.hub.load": "runs code from the network",
    "yaml.full_load": "makes objects from a file",
    "yaml.load": "makes objects from a file",
    "yaml.load_all": "makes objects from a file",
    "yaml.unsafe_load": "makes objects from a file",
}
# keyword -> the only literal it may have
KEYWORDS = {"shell": "False", "allow_pickle": "False", "weights_only": "True"}


def dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """``a.b.c`` of an expression with the import aliases of its file resolved; empty for anything else."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, aliases)):
        return f"{base}.{node.attr}"
    return ""


def unsafe(text: str) -> list[str]:
    """One line for each call that can act on what a foreign file says."""
    tree, found = ast.parse(text), []
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node, aliases)) in BANNED_CALLS:
            found.append(f"line {node.lineno}: {name} {BANNED_CALLS[name]}")
        elif isinstance(node, ast.Attribute) and node.attr == "extractall":
            found.append(f"line {node.lineno}: extractall writes where the archive says")
        elif isinstance(node, ast.keyword) and KEYWORDS.get(node.arg or "") not in (None, ast.unparse(node.value)):
            found.append(f"line {node.value.lineno}: {node.arg}={ast.unparse(node.value)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_nothing_unsafe(path: Path) -> None:
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b)",
        "from pickle import Unpickler as U\nU(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "numpy.load(f, allow_pickle=True)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(f)",
        "yaml.full_load(f)",
        "eval('1')",
        "x = exec",
        "import builtins\nbuiltins.eval('1')",
        "subprocess.run('ls', shell=True)",
        "archive.extractall(path)",
        "import torch\ntorch.hub.load('a', 'b')",
        "from torch import hub\nhub.load('a', 'b')",
        "from os import system\nsystem('ls')",
        "import tempfile\ntempfile.mktemp()",
    ],
)
def test_a_planted_unsafe_call_is_found(planted: str) -> None:
    assert len(unsafe(planted)) == 1


def test_safe_neighbours_pass() -> None:
    text = "model.eval()\ntorch.load(f, weights_only=True)\nsubprocess.run(['ls'], shell=False)\nyaml.safe_load(f)"
    assert unsafe(text) == []
