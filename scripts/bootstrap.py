"""Make or mend the virtual environment ``.venv`` of this clone; started by scripts/dlrun and scripts/test.

Standard library only. One process at a time works on it. An install that was cut off is started over: a file marks
unfinished work, and the stamps that make later starts cheap hold only without it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / "unfinished"
SIZES = {"run": "about 5 GB with CUDA", "dev": "about 5 GB with CUDA, and the development tools"}


class SetupError(Exception):
    """Why there is no environment, in one sentence."""


def say(text: str) -> None:
    """One line of progress, on stderr: stdout belongs to the command that follows."""
    print(f"dlrun: {text}", file=sys.stderr, flush=True)


def stamp(kind: str) -> Path:
    """The file that says the environment of this kind is complete."""
    return VENV / f"stamp-{kind}"


def stamp_text() -> str:
    """What the environment is made from; environment.sh composes the same text."""
    return f"{ROOT}\n{os.path.realpath(PYTHON)}\n{(ROOT / 'pyproject.toml').read_text()}".rstrip("\n")


def complete(kind: str) -> bool:
    """Whether the environment is there and made from what lies here now; one with development tools serves both."""
    stamps = [s for s in (stamp(kind), stamp("dev")) if s.is_file()]
    return (
        PYTHON.exists() and not UNFINISHED.exists() and any(s.read_text().rstrip("\n") == stamp_text() for s in stamps)
    )


def lock(file: BinaryIO) -> None:
    """Wait until no other process works on the environment; released when this process and its pip are gone."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another start is setting up .venv; waiting for it")
        fcntl.flock(file, fcntl.LOCK_EX)


def works() -> bool:
    """Whether .venv is an environment of this place that was not left half made."""
    if UNFINISHED.exists() or not PYTHON.exists():
        return False
    moved = any(s.is_file() and s.read_text().split("\n")[0] != str(ROOT) for s in (stamp("run"), stamp("dev")))
    return not moved and _quiet([str(PYTHON), "-I", "-m", "pip", "--version"])


def make() -> None:
    """Make an empty environment that has pip."""
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir()
    UNFINISHED.touch()
    try:
        import ensurepip  # noqa: F401  Debian keeps it in a package of its own
    except ImportError:
        make_without_ensurepip()
    else:
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)


def make_without_ensurepip() -> None:
    """The same from whatever else this machine has: a pip outside, virtualenv or uv."""
    if _quiet([sys.executable, "-m", "pip", "--version"]):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(VENV)], check=True)
        subprocess.run([sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "-qq", "pip"], check=True)
    elif shutil.which("virtualenv"):
        subprocess.run(["virtualenv", "-q", "-p", sys.executable, str(VENV)], check=True)
    elif shutil.which("uv"):
        subprocess.run(["uv", "venv", "-q", "--seed", "--allow-existing", "-p", sys.executable, str(VENV)], check=True)
    else:
        shutil.rmtree(VENV)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"Python {version} here cannot make a virtual environment: run 'sudo apt install python{version}-venv', "
            "then this command again"
        )


def pip_install(arguments: list[str], held: BinaryIO) -> None:
    """Run pip in the environment; on a terminal one changing line shows what it does.

    Raises SetupError after pip's last lines when it fails.
    """
    # pip unpacks gigabytes into TMPDIR, and /tmp is often a small memory disk: use the disk that holds the result.
    scratch = VENV / "tmp"
    scratch.mkdir(exist_ok=True)
    command = [str(PYTHON), "-I", "-m", "pip", "install", "--progress-bar", "off", *arguments]
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # pip keeps the lock too: were this process killed, the next start waits for its orphan.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(held.fileno(),),
    )
    last = _follow(process)
    shutil.rmtree(scratch, ignore_errors=True)
    if process.returncode:
        UNFINISHED.unlink()  # pip that fails by itself leaves nothing half copied
        print("\n".join(last), file=sys.stderr)
        raise SetupError("the install failed, pip's last lines are above; run the command again to go on")


def _follow(process: subprocess.Popen[str]) -> list[str]:
    """Show pip's lines as one changing line on a terminal, and give back its last ones."""
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=20)
    start, live = time.monotonic(), sys.stderr.isatty()
    for line in process.stdout:
        last.append(line.rstrip())
        if live:
            minutes, seconds = divmod(int(time.monotonic() - start), 60)
            text = f"  {minutes}:{seconds:02d} {' '.join(line.split())}"
            print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
    if live:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    process.wait()
    return list(last)


def install(kind: str, held: BinaryIO) -> None:
    """Install dlrun from this clone, editable, with what it needs."""
    extra = "[dev]" if kind == "dev" or stamp("dev").exists() else ""
    UNFINISHED.touch()
    pip_install(["-e", f"{ROOT}{extra}"], held)
    # A torch wheel without the operators that torchvision registers breaks its import; newer ones have them.
    if not _quiet([str(PYTHON), "-I", "-c", "import torchvision"]):
        say("torchvision does not work with this torch; taking a newer one")
        pip_install(["--upgrade", "torch>=2.14", "torchvision"], held)
    for k in ("run", "dev") if extra else ("run",):
        stamp(k).write_text(stamp_text() + "\n")
    UNFINISHED.unlink()


def _quiet(command: list[str]) -> bool:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def main(kind: str) -> int:
    """Bring the environment up to date; the exit code."""
    with Path(__file__).open("r+b") as held:
        lock(held)
        if complete(kind):
            return 0
        try:
            if works():
                say(f"bringing .venv up to date ({SIZES[kind]})")
            else:
                free = shutil.disk_usage(ROOT).free / 1e9
                say(f"first start: making .venv, which takes some minutes ({SIZES[kind]}; {free:.0f} GB are free)")
                make()
            install(kind, held)
        except SetupError as error:
            say(str(error))
            return 2
        except subprocess.CalledProcessError as error:
            say(f"'{' '.join(error.cmd)}' failed with exit code {error.returncode}")
            return 2
        except KeyboardInterrupt:
            say("interrupted; the next start begins again")
            return 130
    say("ready")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
