"""The wheel carries the sources and configs as they lie here; the editable install reads them live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WHERE = """
import json, dlrun
from dlrun.config import config_dir
print(json.dumps([dlrun.__file__, str(config_dir())]))
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Run a command that must succeed and give back its stdout."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Without --wheel: the wheel is made from the source archive, so a file missing there is missing here too.
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(repository), cwd=out)
    (made,) = out.glob("*.whl")
    return made


def lying_here(repository: Path) -> dict[str, bytes]:
    """Every file the wheel must carry, by its name in the wheel."""
    package = repository / "src" / "dlrun"
    files = {f"dlrun/{p.relative_to(package)}": p for p in package.rglob("*")}
    files |= {f"dlrun/{p.relative_to(repository)}": p for p in (repository / "configs").rglob("*")}
    return {n: p.read_bytes() for n, p in files.items() if p.is_file() and p.suffix != ".pyc"}


def test_the_wheel_carries_sources_and_configs_as_they_lie_here(repository: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {n: archive.read(n) for n in archive.namelist() if n.startswith("dlrun/")}
    assert carried == lying_here(repository)
    assert sum(name.endswith(".yaml") for name in carried) > 0
    assert "dlrun/configs/train.yaml" in carried


def test_an_installed_wheel_finds_its_own_configs_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "with a space"
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
        cwd=tmp_path,
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    package, configs = json.loads(run(sys.executable, "-c", WHERE, cwd=elsewhere, PYTHONPATH=str(target)))
    assert Path(package) == target / "dlrun" / "__init__.py"
    assert Path(configs) == target / "dlrun" / "configs"
    assert (Path(configs) / "train.yaml").is_file()


def test_the_wheel_offers_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        assert "dlrun = dlrun.cli.main:entry" in archive.read(entry).decode()
        assert any(n.endswith("licenses/LICENSE") for n in archive.namelist())


def test_the_editable_install_reads_the_configs_of_the_clone(repository: Path, tmp_path: Path) -> None:
    package, configs = json.loads(run(sys.executable, "-c", WHERE, cwd=tmp_path))
    assert Path(package) == repository / "src" / "dlrun" / "__init__.py"
    assert Path(configs) == repository / "configs"
