"""scripts/dlrun and scripts/test on a stand-in clone: a package without dependencies, so that no network is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "dlrun"
version = "0"
"""

# The smallest editable build backend: a .pth file to the clone and a console script.
BACKEND = """
import pathlib, zipfile

def prepare_metadata_for_build_editable(folder, config_settings=None):
    info = pathlib.Path(folder, "dlrun-0.dist-info")
    info.mkdir()
    for name, text in files().items():
        (info.parent / name).write_text(text)
    return info.name

def files():
    return {
        "dlrun-0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: dlrun\\nVersion: 0\\nProvides-Extra: dev\\n",
        "dlrun-0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "dlrun-0.dist-info/entry_points.txt": "[console_scripts]\\ndlrun = stand_in:main\\n",
    }

def build_editable(folder, config_settings=None, metadata_directory=None):
    here = pathlib.Path(__file__).parent
    with open(here / "installs", "a") as log:
        log.write("x")
    name = "dlrun-0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        for path, text in files().items():
            wheel.writestr(path, text)
        wheel.writestr("dlrun.pth", str(here / "src") + "\\n")
        wheel.writestr("dlrun-0.dist-info/RECORD", "")
    return name
"""

STAND_IN = """
import os, sys

def main():
    print(os.getcwd(), sys.argv[1:], sep="|")
    return 3 if "fail" in sys.argv else 0
"""


class Clone:
    """A stand-in clone in a folder with a space."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "src").mkdir(parents=True)
        shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("bench", "__pycache__"))
        (root / "pyproject.toml").write_text(PROJECT)
        (root / "backend.py").write_text(BACKEND)
        (root / "src" / "stand_in.py").write_text(STAND_IN)
        (root / "src" / "torchvision.py").write_text("")

    @property
    def installs(self) -> int:
        """How often pip has built the package."""
        log = self.root / "installs"
        return len(log.read_text()) if log.exists() else 0

    def start(
        self, *words: str, shell: str = "sh", cwd: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Start scripts/dlrun."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        return subprocess.Popen(
            [shell, str(self.root / "scripts" / "dlrun"), *words],
            cwd=cwd or self.root,
            env={**clean, "PYTHON": sys.executable, "PIP_NO_INDEX": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def dlrun(
        self, *words: str, shell: str = "sh", cwd: Path | None = None, **environment: str
    ) -> tuple[int, str, str]:
        """Run scripts/dlrun to its end: exit code, stdout, stderr."""
        process = self.start(*words, shell=shell, cwd=cwd, **environment)
        out, err = process.communicate()
        return process.returncode, out.strip(), err.strip()


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone after its first start, which two processes made at once."""
    clone = Clone(tmp_path_factory.mktemp("a folder") / "the clone")
    both = [clone.start("first") for _ in range(2)]
    for process in both:
        out, err = process.communicate()
        assert (process.returncode, out) == (0, f"{clone.root}|['first']\n"), err
    return clone


def test_two_first_starts_at_once_install_once(ready: Clone) -> None:
    assert ready.installs == 1
    assert not (ready.root / ".venv" / "unfinished").exists()


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_later_starts_only_run(ready: Clone, shell: str, tmp_path: Path) -> None:
    words = ["train", "model=cnn", "a b", "x='*'", ""]
    code, out, err = ready.dlrun(*words, shell=shell, cwd=tmp_path, PYTHON="/nowhere/python")
    assert (code, out, err) == (0, f"{tmp_path}|{words}", "")


def test_the_exit_code_is_dlruns(ready: Clone) -> None:
    assert ready.dlrun("fail")[0] == 3


def test_it_works_through_a_link(ready: Clone, tmp_path: Path) -> None:
    link = tmp_path / "dlrun"
    link.symlink_to(ready.root / "scripts" / "dlrun")
    done = subprocess.run([str(link), "x"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}|['x']\n"), done.stderr


@pytest.mark.slow
def test_a_changed_project_a_cut_off_install_and_a_moved_clone_are_mended(ready: Clone, tmp_path: Path) -> None:
    clone = Clone(tmp_path / "one")
    shutil.copytree(ready.root / ".venv", clone.root / ".venv", symlinks=True)
    # A copied environment belongs to the clone it was copied from.
    assert clone.dlrun()[:2] == (0, f"{clone.root}|[]")
    assert clone.installs == 1

    with (clone.root / "pyproject.toml").open("a") as project:
        project.write("\n[tool.other]\n")
    assert clone.dlrun()[0] == 0
    assert clone.dlrun()[0] == 0
    assert clone.installs == 2

    (clone.root / ".venv" / "unfinished").touch()
    (clone.root / ".venv" / "half-copied").touch()
    assert clone.dlrun()[0] == 0
    assert clone.installs == 3
    assert not (clone.root / ".venv" / "half-copied").exists()


@pytest.mark.slow
def test_an_install_that_fails_says_why_and_goes_on_the_next_time(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    (clone.root / "backend.py").write_text("raise OSError('no space left on the planet')")
    code, out, err = clone.dlrun()
    assert (code, out) == (2, "")
    assert "no space left on the planet" in err
    assert err.endswith("dlrun: the install failed, pip's last lines are above; run the command again to go on")
    (clone.root / ".venv" / "kept").touch()
    (clone.root / "backend.py").write_text(BACKEND)
    assert clone.dlrun()[0] == 0
    assert (clone.root / ".venv" / "kept").exists()


def test_a_python_that_is_too_old_is_one_sentence(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    code, out, err = clone.dlrun(PYTHON=str(old))
    assert (code, out) == (2, "")
    assert err == f"dlrun needs Python 3.11 or newer and {old} is not: name one with PYTHON=/path/to/python3"
    assert not (clone.root / ".venv").exists()


def test_debian_without_venv_is_told_what_to_install(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("ensurepip", "pip"):
        (hidden / f"{name}.py").write_text("raise ImportError")
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("sh", "dirname", "readlink", "cat"):
        (bare / tool).symlink_to(shutil.which(tool) or "")
    code, _, err = clone.dlrun(PYTHONPATH=str(hidden), PATH=str(bare))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert code == 2
    assert err.split("\n")[-1] == (
        f"dlrun: Python {version} here cannot make a virtual environment: "
        f"run 'sudo apt install python{version}-venv', then this command again"
    )
    assert not (clone.root / ".venv").exists()


def test_the_shell_scripts_parse_everywhere() -> None:
    for shell in ("sh", "bash"):
        for script in ("dlrun", "test", "environment.sh"):
            command = [shell, "-n", str(ROOT / "scripts" / script)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), command
