"""Where a run came from: code, versions, device, command; never a secret.

The environment is recorded by an allow-list of names, and the value of any variable that is named like a secret is
replaced in the command line and in the diff. Git is asked with its hooks and outside programs off, and its absence is
no error.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
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
