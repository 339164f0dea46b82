"""The rules a reader relies on: imports run downward, small files, nothing unfinished."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "dlrun"
FILES = sorted(SOURCE.rglob("*.py"))

ASSEMBLY = (
    "allowlist binding build config config_words explain feature_classifier follow identity loading many_devices "
    "output_files pairing predict profiling resume run session sweeps trained"
)
FLOORS = (
    {"", "errors", "value_types"},
    {"adversarial_losses", "models", "losses", "metrics", "optimizers", "schedules"},
    {"data", "tasks"},
    {"algorithms", "training", "engines", "tracking", "packing", "distributed"},
    set(ASSEMBLY.split()),
    {"cli", "console", "__main__"},
)

FILE_LINES, FUNCTION_LINES = 300, 40
# "path" or "path:function" -> the lines it may have; each entry says why.
LONGER: dict[str, int] = {}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """The dotted name below dlrun of a source file: ``data.facts``; a package is its own name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    """The floor of a dotted name below dlrun, 0 the lowest; a new module must be given one."""
    top = module.split(".")[0]
    found = [number for number, names in enumerate(FLOORS) if top in names]
    assert found, f"dlrun.{top} stands on no floor: give it one in FLOORS"
    return found[0]


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name below dlrun of every import of dlrun's own modules, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ["dlrun", *(package.split(".") if package else [])]
            base = above[: len(above) - node.level + 1] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            # "from dlrun import run" names a module; "from dlrun import __version__" the package itself.
            names = [f"dlrun.{a.name}" if source == "dlrun" else source for a in node.names]
        else:
            continue
        for name in names:
            if name == "dlrun" or name.startswith("dlrun."):
                below = name.removeprefix("dlrun").removeprefix(".")
                yield node.lineno, "" if below == "__version__" else below


def upward_imports(text: str, module: str, package: str) -> list[str]:
    """One line for each import that a module must not have."""
    here = floor(module)
    found = imports(ast.parse(text), package)
    return [f"line {line}: dlrun.{module} imports dlrun.{name}" for line, name in found if floor(name) > here]


def too_long(text: str, name: str) -> list[str]:
    """One line for a file, and for each function in it, that no longer fits on its screens; docstrings are free."""
    found = []
    if (lines := text.count("\n")) > LONGER.get(name, FILE_LINES):
        found.append(f"{name}: {lines} lines")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            free = doc.end_lineno - doc.lineno + 1 if doc and doc.end_lineno else 0
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - free
            if lines > LONGER.get(f"{name}:{node.name}", FUNCTION_LINES):
                found.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    return found


def module_level_imports(tree: ast.Module) -> set[str]:
    """The top names imported as soon as a file is: everything but what stands inside functions and TYPE_CHECKING."""
    names: set[str] = set()
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)
    return names


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 10


def test_imports_run_downward() -> None:
    found = []
    for path in FILES:
        module = module_of(path)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found += [f"{relative(path)}: {line}" for line in upward_imports(path.read_text(), module, package)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "planted",
    [
        "import dlrun.run",
        "from dlrun.training.trainer import Trainer",
        "from dlrun import console",
        "def f():\n    from dlrun.cli.main import main",
        "from ..tracking import history",
        "if TYPE_CHECKING:\n    from dlrun.build import build",
    ],
)
def test_a_planted_upward_import_is_found(planted: str) -> None:
    assert len(upward_imports(planted, "data.tabular", "data")) == 1


@pytest.mark.parametrize(
    "allowed",
    [
        "import torch",
        "from dlrun import __version__",
        "from dlrun.errors import DataError",
        "from . import facts",
        "from .facts import Facts",
        "from ..models import mlp",
    ],
)
def test_downward_imports_pass(allowed: str) -> None:
    assert upward_imports(allowed, "data.tabular", "data") == []


def test_a_module_without_a_floor_is_refused() -> None:
    with pytest.raises(AssertionError, match="stands on no floor"):
        upward_imports("", "helpers", "")


def test_files_and_functions_fit_on_a_screen() -> None:
    found = [line for path in FILES for line in too_long(path.read_text(), relative(path))]
    assert not found, "\n".join(found)


def test_the_length_check_counts_code_and_not_docstrings() -> None:
    body = "    x = 1\n" * 39
    assert too_long(f"def f():\n{body}", "a.py") == []
    assert too_long(f'def f():\n    """Doc.\n\n    More.\n    """\n{body}', "a.py") == []
    assert too_long(f"def f():\n    y = 2\n{body}", "a.py") == ["a.py:1: f has 41 lines"]
    assert too_long("x = 1\n" * 301, "a.py") == ["a.py: 301 lines"]


def test_the_command_line_starts_without_torch() -> None:
    heavy = {"torch", "torchvision", "sklearn", "numpy", "PIL", "tensorboard"}
    files = [p for p in FILES if module_of(p).split(".")[0] in FLOORS[-1]]
    found = {relative(p): module_level_imports(ast.parse(p.read_text())) & heavy for p in files}
    assert not {name: bad for name, bad in found.items() if bad}


def test_module_level_imports_are_told_from_those_inside_functions() -> None:
    text = "try:\n    import a.b\nexcept OSError:\n    from c import d\n"
    text += "if TYPE_CHECKING:\n    import e\ndef f():\n    import g\n"
    assert module_level_imports(ast.parse(text)) == {"a", "c"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_module_is_finished_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert re.findall("TODO|FIXME|XXX|NotImplementedError", text) == []


# Written in halves, so that this file passes its own check.
FOREIGN = re.compile(
    "|".join(
        a + b
        for a, b in [
            ("py", r"pi\.org"),
            ("python", "hosted"),
            ("registry.n", "pmjs"),
            ("deb.de", "bian"),
            ("/wo", "rk/"),
            ("/fa", "rm/"),
            ("/ro", r"ot/\."),
            ("/ho", r"me/\w"),
            ("/tm", "p/v/"),
        ]
    )
)


def foreign(text: str) -> list[str]:
    """The machine paths and package-index hosts in a text."""
    return FOREIGN.findall(text)


def test_no_machine_path_or_index_host_in_any_file() -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert len(files) > len(FILES)
    found = {relative(p): foreign(p.read_bytes().decode("utf-8", "replace")) for p in files}
    assert not {name: bad for name, bad in found.items() if bad}


def test_a_planted_machine_path_is_found() -> None:
    assert foreign("--root " + "/wo" + "rk/shared") == ["/wo" + "rk/"]
    assert foreign("https://" + "pyp" + "i.org/simple") == ["pyp" + "i.org"]
