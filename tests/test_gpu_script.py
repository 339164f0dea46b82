"""scripts/bench/gpu.sh without a GPU: its plan, what it does when a part fails, and what is carried to the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "scripts" / "bench"
PARTS = {
    "tests", "steps-short", "steps-long", "cold", "data", "observability", "memory", "packing",
    "mnist", "fashion_mnist", "shakespeare",
}  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="a script for bash")


def run(script: str, *words: str, **environment: str) -> tuple[int, str, str]:
    command = ["bash", str(BENCH / script), *words]
    settings = {**os.environ, "PYTHON": sys.executable, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    return done.returncode, done.stdout, done.stderr


def planned() -> dict[str, tuple[int, list[str]]]:
    """The parts of the plan: limit in seconds and command."""
    code, out, _ = run("gpu.sh", "--dry")
    assert code == 0
    lines = [line.split(None, 3) for line in out.splitlines()[:-1]]
    return {name: (int(limit), command.split()) for name, limit, _, command in lines}


def test_the_plan_has_every_part_and_fits_into_ten_minutes() -> None:
    plan = planned()
    assert set(plan) == PARTS
    assert sum(limit for limit, _ in plan.values()) < 595  # five seconds are for the wheels
    last = run("gpu.sh", "--dry")[1].splitlines()[-1]
    assert f"{sum(limit for limit, _ in plan.values())} s  at most" in last


def test_every_program_of_the_plan_takes_its_words() -> None:
    """The benchmark's and the speedruns' own readers of the command line, and the names of the cases."""
    plan = planned()
    words = [command[2:] for _, command in plan.values() if command[1] == "scripts/bench"]
    runs = [command[2:] for _, command in plan.values() if command[1].endswith("speedruns.py")]
    assert len(words) == 7
    assert len(runs) == 3
    code = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
import packing, speedruns
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("bench_main", {str(BENCH / "__main__.py")!r})
bench = module_from_spec(spec)
spec.loader.exec_module(bench)
from cases import CASES
from ways import WAYS
named = []
for words in {words!r}:
    if words[0] == "packing":
        sys.argv = ["packing.py", *words[1:]]
        packing._arguments()
        continue
    options = bench.arguments(words)
    assert set(options.ways) <= set(WAYS), options.ways
    named += options.cases
assert sorted(named) == sorted(case.slug for case in CASES), named
for words in {runs!r}:
    sys.argv = ["speedruns.py", *words]
    speedruns.parsed()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_goes_on_after_a_part_that_fails_or_takes_too_long(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan", tmp_path / "out"
    out.mkdir()
    plan.write_text(
        "good 60 echo well; echo 1 > $RESULTS/found.json\n"
        "bad 60 echo alas; exit 7\n"
        "slow 1 echo begun; sleep 600\n"
        "last 60 echo end\n"
    )
    results = tmp_path / "results"
    code, shown, errors = run("gpu.sh", "--plan", str(plan), RESULTS=str(results), OUT=str(out))
    assert code == 1, errors
    rows = [line.split(" | ")[:2] for line in (results / "summary.md").read_text().splitlines()[2:]]
    assert rows == [["| good", "passed"], ["| bad", "failed with 7"], ["| slow", "out of time"], ["| last", "passed"]]
    assert shown.endswith((results / "summary.md").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["gpu.log", "results.tar.gz", "summary.md"]
    log = (out / "gpu.log").read_text()
    assert all(word in log for word in ("well", "alas", "begun", "end"))
    with tarfile.open(out / "results.tar.gz") as packed:
        assert "./found.json" in packed.getnames()


def test_it_ends_with_zero_when_all_pass_and_runs_only_what_is_asked_for(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_text("one 60 echo 1\ntwo 60 exit 3\nthree 60 echo 3\n")
    words = ("--plan", str(plan), "--only", "one", "--only", "three")
    code, shown, _ = run("gpu.sh", *words, RESULTS=str(tmp_path / "results"))
    assert code == 0
    assert "two" not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--only", "nonsense"), "there is no part called nonsense"), (("--wet",), "there is no option --wet")],
)
def test_what_it_does_not_know_is_one_sentence(words: tuple[str, ...], said: str) -> None:
    code, out, errors = run("gpu.sh", *words)
    assert (code, out) == (2, "")
    assert said in errors


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    code, out, _ = run("gpu.sh", CUDA_VISIBLE_DEVICES="", RESULTS=str(tmp_path / "results"))
    assert code == 2
    assert "sees no CUDA device here; gpu.sh --dry prints the plan" in out
    assert "==" not in out, "no part has begun"


def test_what_is_carried_is_told(tmp_path: Path) -> None:
    code, out, _ = run("gpu_carry.sh", "--dry", str(tmp_path))
    assert code == 0
    assert "hydra-core==" in out
    assert str(tmp_path) in out
