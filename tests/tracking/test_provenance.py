"""Where a run came from: the commit and the diff, versions, and no secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlrun.tracking.provenance import git_diff, provenance, redact, source_digest

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@b")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which is also the current folder."""
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / "model.py").write_text("width = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_repository(project: Path) -> None:
    assert provenance()["git"] == {"commit": git(project, "rev-parse", "HEAD"), "dirty": False}
    assert git_diff() is None


def test_a_changed_repository_and_its_diff_without_secrets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "s3cr3t-value")
    (project / "model.py").write_text("width = 2  # s3cr3t-value\n")
    assert provenance()["git"]["dirty"] is True
    diff = git_diff()
    assert diff is not None
    assert "+width = 2  # ***" in diff


def test_a_long_diff_is_cut(project: Path) -> None:
    (project / "model.py").write_text("x = 1 # é\n" * 300_000)
    diff = git_diff()
    assert diff is not None
    assert len(diff.encode()) < 1_000_100
    assert diff.endswith("[cut here: the diff is longer than 1 MB]\n")


def test_programs_named_by_the_repository_are_not_run(project: Path) -> None:
    trap = project / "trap"
    trap.write_text("#!/bin/sh\ntouch sprung\n")
    trap.chmod(0o755)
    git(project, "config", "core.fsmonitor", str(trap))
    git(project, "config", "diff.external", str(trap))
    (project / "model.py").write_text("width = 2\n")
    provenance()
    assert git_diff()
    assert not (project / "sprung").exists()


def test_without_a_repository_or_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert provenance()["git"] == {"commit": None, "dirty": None}
    assert git_diff() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["git"] == {"commit": None, "dirty": None}


def test_versions_threads_and_machine_are_plain_json(project: Path) -> None:
    facts = json.loads(json.dumps(provenance()))
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["versions"]["python"] == sys.version.split()[0]
    assert facts["threads"]["intra"] == torch.get_num_threads()
    assert facts["machine"]["host"]


def test_secrets_do_not_leave(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = {
        "WANDB_API_KEY": "canary-one-1", "HF_TOKEN": "canary-two-2", "db_password": "canary-three",
        "GOOGLE_CREDS": "canary-four", "CLIENT_SECRET": "canary-five", "PLAIN": "canary-six-not-listed",
    }  # fmt: skip
    for name, value in canaries.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["dlrun", "train", *(f"x={v}" for k, v in canaries.items() if k != "PLAIN"), "url=https://me:pw@host/x"]
    monkeypatch.setattr(sys, "argv", [*arguments, "model.num_tokens=12"])
    facts = provenance()
    text = json.dumps(facts)
    assert "canary" not in text
    assert "me:pw" not in text
    assert facts["command"][-2:] == ["url=https://***@host/x", "model.num_tokens=12"]
    assert facts["environment"]["OMP_NUM_THREADS"] == "1"


def test_short_values_and_other_names_are_left_alone() -> None:
    environment = {"KEY": "short", "HOME": "longer-than-eight", "TOKEN": "abcdefgh", "TOKEN_LONG": "abcdefghij"}
    assert redact("short longer-than-eight abcdefgh abcdefghij", environment) == "short longer-than-eight *** ***"


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a module beside it, and others that have nothing to do with it."""
    for name, text in {
        "net_a/__init__.py": "from net_a import layers\n",
        "net_a/layers.py": "def build():\n    import helper_a, json, torch\n",
        "net_a/data.txt": "no code",
        "helper_a.py": "from further_a.inner import x\n",
        "further_a/inner.py": "x = 1\n",
        "stranger_a.py": "y = 1\n",
        "broken_a.py": "import stranger_a\ndef (\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "net_a" / ".#layers.py").symlink_to("an editor's lock")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def fresh_digest(package: str) -> str:
    source_digest.cache_clear()
    return source_digest(package)


@pytest.mark.parametrize("name", ["net_a/__init__.py", "net_a/layers.py", "helper_a.py", "further_a/inner.py"])
def test_the_digest_of_code_changes_with_what_it_imports(code: Path, name: str) -> None:
    before = fresh_digest("net_a")
    (code / name).write_text((code / name).read_text() + "\n")
    assert source_digest("net_a") == before, "code is loaded once in a process"
    assert fresh_digest("net_a") != before


@pytest.mark.parametrize("name", ["stranger_a.py", "net_a/data.txt"])
def test_the_digest_of_code_does_not_change_with_other_files(code: Path, name: str) -> None:
    before = fresh_digest("net_a")
    (code / name).write_text("z = 3\n")
    assert fresh_digest("net_a") == before


def test_the_digest_of_code_does_not_depend_on_where_it_lies(
    code: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fresh_digest("net_a")
    moved = tmp_path_factory.mktemp("moved") / "code"
    code.rename(moved)
    assert fresh_digest("net_a") != before, "there is none there now"
    monkeypatch.syspath_prepend(str(moved))
    assert fresh_digest("net_a") == before


def test_the_digest_of_what_is_no_python_source(code: Path) -> None:
    assert fresh_digest("broken_a") != fresh_digest("absent_a")
    assert fresh_digest("sys") == fresh_digest("absent_a")


def test_the_neighbours_of_an_installed_package_are_not_asked(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fresh_digest("net_a")
    monkeypatch.setattr("dlrun.tracking.provenance._installed", lambda: {code})
    inside = fresh_digest("net_a")
    assert inside != before
    (code / "helper_a.py").write_text("")
    assert fresh_digest("net_a") == inside
