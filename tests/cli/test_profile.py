"""``dlrun profile`` as its user calls it: from the words to the tables."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from dlrun.cli.commands import BY_NAME
from dlrun.cli.complete import candidates
from dlrun.cli.grammar import parse
from dlrun.cli.main import main
from dlrun.cli.profile_screens import micro
from dlrun.profiling import peaks, recipe

WORDS = ["model.hidden=[16]", "trainer.device=cpu", "trainer.limit={train: 80, val: 20, test: 20}"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No trials, a small product for the peak; the process's settings come back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(peaks.SIDE, "cpu", 64)
    monkeypatch.setattr(peaks, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(recipe, "TRY_SECONDS", 0.0)
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.set_num_threads(before[1])


def test_the_tables_and_the_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["profile", *WORDS, "--steps", "4"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    for title in ("profile", "a step", "beside the step", "work", "heaviest operators", "time by layer"):
        assert f"\n{title}" in f"\n{out}"
    first = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    for part in ("data", "forward", "backward", "optimizer", "logging", "whole"):
        assert part in first
    assert "\nverdict: " in out
    assert list(tmp_path.iterdir()) == [], "nothing is written that was not asked for"


def test_json_is_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--json", "--steps=3", *WORDS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]["steps"] == 3
    assert [part["name"] for part in found["step"]["parts"]][:4] == ["data wait", "forward", "backward", "optimizer"]


def test_a_trace_lies_in_the_folder_of_runs_where_the_board_finds_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["profile", "--trace", *WORDS, "--steps", "2", "--outputs", str(tmp_path / "o")]) == 0
    (file,) = (tmp_path / "o").rglob("*.pt.trace.json.gz")
    assert file.relative_to(tmp_path / "o").parts[:3] == ("profile", "plugins", "profile")
    out = capsys.readouterr().out
    assert f"trace: {file}" in out
    assert "https://ui.perfetto.dev" in out
    assert out.count("dlrun board\n") == 1


@pytest.mark.parametrize(
    ("words", "plain", "trace"),
    [
        (["--trace", "model=cnn"], ["model=cnn"], ""),
        (["--trace"], [], ""),
        (["model=cnn", "--trace", "--json"], ["model=cnn"], ""),
        (["--trace", "~x", "+y=1"], ["~x", "+y=1"], ""),
        (["--trace", "t.json.gz", "model=cnn"], ["model=cnn"], "t.json.gz"),
        (["--trace=a=b.json", "model=cnn"], ["model=cnn"], "a=b.json"),
    ],
)
def test_a_trace_goes_with_or_without_a_path(words: list[str], plain: list[str], trace: str) -> None:
    arguments = parse(BY_NAME["profile"], words)
    assert arguments.words == plain
    assert arguments.flag("--trace")
    assert arguments.text("--trace") == trace


def test_completion_goes_on_after_a_trace_without_a_path() -> None:
    assert "model=mlp" in [word for word, _ in candidates("dlrun profile --trace model=m")]


def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "optimizer.lr=-1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "measure", interrupted)
    assert main(["profile", *WORDS]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("caught", [False, True])
def test_a_signal_is_said_and_is_the_exit_code(
    caught: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where something on the way takes the end for a failure of its own."""
    measure = recipe.measure

    def interrupted(*arguments: Any, **more: Any) -> Any:
        with suppress(SystemExit) if caught else nullcontext():
            signal.raise_signal(signal.SIGTERM)
        return measure(*arguments, **more)

    monkeypatch.setattr(recipe, "measure", interrupted)
    assert main(["profile", *WORDS, "--steps", "2"]) == 128 + signal.SIGTERM
    assert capsys.readouterr() == ("", "error: interrupted by SIGTERM\n")


def test_torch_says_nothing_of_its_own(tmp_path: Path) -> None:
    """Its profiler speaks to standard error unless told not to before torch is loaded."""
    words = ["profile", *WORDS, "tracking=minimal", "--steps", "2", "--json"]
    code = "import sys; from dlrun.profiling import recipe; recipe.TRY_SECONDS = 0.0"
    program = f"from dlrun.cli import main as m; sys.exit(m.main({words!r}))"
    early = "import os; os.environ.setdefault('KINETO_LOG_LEVEL', '99'); "
    done = subprocess.run(
        [sys.executable, "-c", f"{early}{code}; {program}"], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0
    assert "USDT" not in done.stderr
    assert "ERROR" not in done.stderr


def test_microseconds() -> None:
    assert [micro(x) for x in (1e-7, 12.34e-6, 0.001234, 1.5, -2e-6)] == ["0.1", "12.3", "1,234", "1,500,000", "-2.0"]
