"""``dlrun runs`` on real folders: a sweep is one row, its trials are asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dlrun.cli.complete import candidates
from dlrun.cli.grammar import Arguments
from dlrun.cli.runs import run
from dlrun.errors import ConfigError


def planted(root: Path, name: str, **record: object) -> None:
    path = root / name
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"status": "done", "optimizer": "adam", "steps": 100, **record}))


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An old run, a sweep of two points under two seeds, and a new run."""
    sweep = "2026-11-21/100000-sweep-mlp-adam-bbbb"
    planted(tmp_path, "2026-11-20/090000-mlp-adam-aaaa", model="mlp", data={"name": "digits"})
    planted(tmp_path, "2026-11-22/110000-cnn-adam-cccc", model="cnn", data={"name": "mnist"})
    for number, seed, model, value in [(0, 0, "mlp", 0.9), (0, 1, "mlp", 0.8), (1, 0, "cnn", 0.7), (1, 1, "cnn", 0.6)]:
        planted(
            tmp_path,
            f"{sweep}/{number:04d}-seed{seed}",
            created=f"2026-11-21T10:00:0{number}{seed}",
            model=model,
            data={"name": "digits"},
            metrics={"val/accuracy": value},
            best={"metric": "val/accuracy", "value": value},
            sweep={"name": "old name", "point": number, "values": {"model": model, "optimizer.lr": "0.1"}},
        )
    facts = {"metric": "val/accuracy", "higher_is_better": True, "seeds": [0, 1], "planned": 3, "created": "2026-11-21"}
    (tmp_path / sweep / "sweep.json").write_text(json.dumps(facts))
    (tmp_path / sweep / "status.json").write_text(json.dumps({"status": "interrupted", "seconds": 65}))
    return tmp_path


def shown(outputs: Path, *options: str) -> int:
    given: dict[str, list[str]] = {"--outputs": [str(outputs)]}
    for option in options:
        name, _, value = option.partition(":")
        given.setdefault(name, []).append(value)
    return run(Arguments([], given, ["runs"]))


def names(outputs: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    assert shown(outputs, "--json", *options) == 0
    return [record["name"] for record in json.loads(capsys.readouterr().out)]


SWEEP = "100000-sweep-mlp-adam-bbbb"
TRIALS = [f"{SWEEP}/{number:04d}-seed{seed}" for number in (0, 1) for seed in (0, 1)]
ALL = ["110000-cnn-adam-cccc", *reversed(TRIALS), "090000-mlp-adam-aaaa"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["110000-cnn-adam-cccc", SWEEP, "090000-mlp-adam-aaaa"]),
        (["--all"], ALL),
        (["--sweep:last"], TRIALS),
        (["--sweep:bbbb", "--filter:model=cnn"], TRIALS[2:]),
        (["--sweep:bbbb", "--sort:val/accuracy", "--limit:2"], [TRIALS[3], TRIALS[2]]),
        ([f"--filter:sweep={SWEEP}"], TRIALS[::-1]),
        (["--filter:sweep=*bbbb", "--filter:sweep.point=1"], TRIALS[:1:-1]),
        (["--filter:kind=sweep"], [SWEEP]),
        (["--filter:data=digits"], [SWEEP, "090000-mlp-adam-aaaa"]),
        (["--filter:run=*bbbb", "--filter:points.done=2"], [SWEEP]),
        (["--all", "--filter:run=*seed1"], [TRIALS[3], TRIALS[1]]),
    ],
)
def test_which_are_shown(
    outputs: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: list[str]
) -> None:
    assert names(outputs, capsys, *options) == expected


def test_a_sweep_is_one_row(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(outputs)
    line = capsys.readouterr().out.splitlines()[2]
    assert re.split("  +", line)[1:] == [
        *[SWEEP, "interrupted", "digits", "cnn, mlp", "adam", "2/3 points", "val/accuracy 0.8500", "1:05"],
        "2026-11-21",
    ]


def test_the_trials_of_a_sweep_have_their_values(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(outputs, "--sweep:bbbb")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "status", "values", "steps", "metric", "time"]
    assert lines[3].split() == ["0001-seed0", "done", "model=cnn", "optimizer.lr=0.1", "100", "val/accuracy", "0.7000"]


def test_trials_among_the_runs_have_the_name_of_their_sweep(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(outputs, "--all")
    assert f"  {TRIALS[2]}  done  " in capsys.readouterr().out


def test_a_sweep_without_trials(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = outputs / "2026-11-23" / "100000-sweep-x-dddd"
    empty.mkdir(parents=True)
    shown(outputs)
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == [empty.name, "unreadable"]
    (empty / "sweep.json").write_text("{}")
    shown(outputs, "--sweep:last")
    assert capsys.readouterr().err == "the sweep has no trials yet\n"


def test_a_sweep_that_is_not_there(outputs: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no sweep 'bbbc' in .*; there are 100000-sweep-mlp-adam-bbbb"):
        shown(outputs, "--sweep:bbbc")


def test_names_of_trials_are_completed(outputs: Path) -> None:
    def words(line: str) -> list[str]:
        return [word for word, _ in candidates(line)]

    assert words(f"dlrun eval --outputs {outputs} 1") == ["110000-cnn-adam-cccc", f"{SWEEP}/"]
    assert words(f"dlrun eval --outputs {outputs} {SWEEP}/") == TRIALS
    assert words(f"dlrun eval --outputs {outputs} {SWEEP}/0001") == TRIALS[2:]
