"""Where a run came from: code, versions, device, command; never a secret. And a digest of code, to know it again.

The environment is recorded by an allow-list of names, and the value of any variable that is named like a secret is
replaced in the command line and in the diff. Git is asked with its hooks and outside programs off, and its absence is
no error.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

_DIFF_LIMIT = 1_000_000
_PACKAGES = (
    "dlrun", "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "safetensors", "tensorboard", "scikit-learn",
    "pillow",
)  # fmt: skip
_ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "SLURM_JOB_ID", "DLRUN_OUTPUTS",
)  # fmt: skip
_SECRET_NAME = re.compile("KEY|TOKEN|SECRET|PASS|CRED", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_LENGTH = 8
# No program named by the repository's own configuration is run to answer these questions.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-optional-locks", "--no-pager")


def provenance() -> dict[str, Any]:
    """The keys of run.json that say where the run came from: command, git, versions, device, threads, environment."""
    return {
        "command": [redact(argument) for argument in sys.argv],
        "folder": redact(str(Path.cwd())),
        "git": _git_state(),
        "versions": _versions(),
        "machine": _machine(),
        "threads": {"intra": torch.get_num_threads(), "inter": torch.get_num_interop_threads(), "cpus": os.cpu_count()},
        "environment": {name: redact(os.environ[name]) for name in _ENVIRONMENT if name in os.environ},
    }


def git_diff() -> str | None:
    """What the current folder's repository has over its commit, at most 1 MB; None when clean or outside of one."""
    text = _git("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color")
    if not text:
        return None
    if len(text.encode()) > _DIFF_LIMIT:
        text = text.encode()[:_DIFF_LIMIT].decode(errors="ignore") + "\n[cut here: the diff is longer than 1 MB]\n"
    return redact(text)


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """``text`` with the values of variables named like secrets, and credentials in addresses, replaced by ``***``."""
    secrets = {v for k, v in environment.items() if len(v) >= _SECRET_LENGTH and _SECRET_NAME.search(k)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _CREDENTIALS.sub("***@", text)


def _git_state() -> dict[str, Any]:
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--ignore-submodules=all")
    return {"commit": commit.strip() if commit else None, "dirty": bool(status.strip()) if status is not None else None}


def _git(*arguments: str) -> str | None:
    """What git prints, None when it is absent, slow, or knows no repository here."""
    try:
        answer = subprocess.run([*_GIT, *arguments], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode(errors="replace") if answer.returncode == 0 else None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def _machine() -> dict[str, Any]:
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"host": socket.gethostname(), "system": platform.platform(), "cpu": _cpu_name(), "devices": devices}


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.processor()


@functools.cache
def source_digest(package: str, *, beside: bool = True) -> str:
    """SHA-256 over the Python source of a package or module, and of the user's own modules beside it that it imports.

    Nothing is imported. Taken once in a process, as code is loaded once: an edit counts for the next process.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_sources(package, beside)):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _sources(package: str, beside: bool) -> set[tuple[str, Path]]:
    """Every source file that belongs to ``package``, under a name that does not depend on where it is installed."""
    found: set[tuple[str, Path]] = set()
    seen: set[str] = set()
    todo = [package]
    while todo:
        name = todo.pop()
        files = [] if name in seen else _files(name)
        seen.add(name)
        found |= {(path.relative_to(root).as_posix(), path) for root, path in files}
        if beside:
            free = [(root, path) for root, path in files if root not in _installed()]
            todo += [other for root, path in free for other in _imported(path) if _is_beside(root, other)]
    return found


def _files(name: str) -> list[tuple[Path, Path]]:
    """The source files of a package or module, each with the folder in which the package lies."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # the module of a script, which is no package
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        path = Path(spec.origin or "")
        return [(path.parent, path)] if path.suffix == ".py" else []
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    found = [(folder.parent, path) for folder in folders for path in folder.rglob("*.py")]
    return [(root, path) for root, path in found if path.is_file() and os.access(path, os.R_OK)]


def _installed() -> set[Path]:
    """Where installed packages lie beside one another: there, a neighbour is another's."""
    return {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}


def _is_beside(root: Path, name: str) -> bool:
    return (root / f"{name}.py").is_file() or (root / name).is_dir()


def _imported(path: Path) -> Iterator[str]:
    """The top names of what a file imports, inside functions too; relative imports stay inside its package."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
