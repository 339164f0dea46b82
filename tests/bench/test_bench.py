"""The benchmarks run from end to end; what they measure on a busy machine is not looked at."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PEERS = {
    "lightning": "lightning", "keras": "keras", "transformers": "transformers", "skorch": "skorch", "ignite": "ignite",
}  # fmt: skip


@pytest.fixture
def bench(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of scripts/bench; what was imported is forgotten after the test."""
    folder = repository / "scripts" / "bench"
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def program(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "scripts" / "bench"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def results(folder: Path, command: str) -> tuple[dict[str, Any], str]:
    (path,) = folder.glob(f"{command}-*.json")
    return json.loads(path.read_text()), path.with_suffix(".md").read_text()


@pytest.mark.slow
def test_steps_on_made_up_data_with_a_command_of_ones_own(repository: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import json, sys, torch\nx = torch.load(sys.argv[2])['x']\n"
        "print('hello')\nprint(json.dumps({'seconds': 2.0, 'steps': len(x) // int(sys.argv[1])}))"
    )
    extra = f"mine={sys.executable} {mine} {{batch}} {{data}}"
    words = ["steps", "--quick", "--root", str(tmp_path), "--cases", "mlp32", "gan", "--threads", "1"]
    done = program(repository, *words, "--extra", extra, "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found, text = results(tmp_path, "steps")
    assert text in done.stdout
    assert found["context"]["data"] == "made-up images and Python's own text"
    assert {"date", "hardware", "cores", "threads", "load_before", "torch", "dlrun"} <= found["context"].keys()
    assert [row["case"] for row in found["found"]] == ["mlp32", "gan"]
    for row in found["found"]:
        assert row["microseconds"].keys() == {"tensors", "dlrun", "mine"}
        assert row["ratios"].keys() == {"tensors", "mine"}
        assert row["microseconds"]["mine"]["median"] == pytest.approx(2e6 / row["steps"])
        counted = {way: {one["steps"] for one in runs} for way, runs in row["runs"].items()}
        assert counted == {"tensors": {4}, "dlrun": {4}, "mine": {4}}
        # The optimizers' own steps are counted in the run that is not measured.
        assert [row["runs"][way][0]["updates"] for way in ("tensors", "dlrun")] == [4, 4]
        tensors, dlrun = (row["runs"][way][1]["parameters"] for way in ("tensors", "dlrun"))
        assert tensors == dlrun > 10_000
        assert "| " + row["name"] + " | 4 | " in text
    assert "| geometric mean | " in text


@pytest.mark.slow
@pytest.mark.parametrize("way", ["loader", *PEERS])
def test_each_way_does_the_same_work(way: str, repository: Path, tmp_path: Path) -> None:
    if way in PEERS and find_spec(PEERS[way]) is None:
        pytest.skip(f"{way} is not installed: pip install dlrun[bench]")
    words = ["steps", "--quick", "--root", str(tmp_path), "--cases", "mlp32", "--ways", "tensors", way]
    done = program(repository, *words, "--threads", "1", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (row,) = results(tmp_path, "steps")[0]["found"]
    assert row["absent"] == {}
    assert {one["steps"] for one in row["runs"][way]} == {4}
    assert row["metrics"][way]["median"] == pytest.approx(row["metrics"]["tensors"]["median"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "more", "shown"),
    [
        ("observability", ["--cases", "mlp32"], "| TensorBoard | "),
        ("memory", ["--cases", "mlp32", "--ways", "tensors"], "| MLP 784-128-10, Adam, batch 32 | "),
        ("cold", ["--ways", "dlrun", "tensors"], "| first step: dlrun | "),
    ],
)
def test_other_commands_write_their_tables(
    command: str, more: list[str], shown: str, repository: Path, tmp_path: Path
) -> None:
    words = ["--quick", "--root", str(tmp_path), "--threads", "1", "--results", str(tmp_path)]
    done = program(repository, command, *words, *more)
    assert done.returncode == 0, done.stderr
    assert shown in results(tmp_path, command)[1]


def test_the_peak_of_a_process_is_not_its_parents(repository: Path) -> None:
    held = b"x" * 2**28
    asked = "import sys; sys.path.insert(0, sys.argv[1]); import worker; print(worker.peak_memory())"
    words = [sys.executable, "-c", asked, str(repository / "scripts" / "bench")]
    peak = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert 2**20 < peak < len(held) // 2, "an interpreter and json; ru_maxrss would say what this process holds"


@pytest.mark.slow
def test_the_data_path_writes_its_table(repository: Path, tmp_path: Path) -> None:
    done = program(repository, "data", "--quick", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found, text = results(tmp_path, "data")
    assert "| dlrun, resident | " in text
    assert len(found["found"]) == 10
    assert all(speed > 0 for speeds in found["found"].values() for speed in speeds)


def one(**changes: Any) -> dict[str, Any]:
    return {"seconds": 1.0, "steps": 4, "parameters": 10, "metric": 1.0, "updates": 4, **changes}


def test_the_same_work_passes(bench: Any) -> None:
    runs = {"tensors": [one(), one(updates=None)], "graph": [one(updates=None, metric=1.09)]}
    runs["mine"] = [{"seconds": 1.0, "steps": 4}]
    bench("running").same_work("case", runs, 0.1)


@pytest.mark.parametrize(
    ("different", "said"),
    [
        (one(steps=5), "took 5 steps"),
        (one(parameters=11), "has 11 parameters"),
        (one(updates=2), "its optimizers took 2"),
        (one(metric=1.2), "more than 10% apart"),
        (one(metric=float("nan")), "more than 10% apart"),
    ],
)
def test_planted_different_work_is_caught(bench: Any, different: dict[str, Any], said: str) -> None:
    running = bench("running")
    with pytest.raises(running.DifferentWorkError, match=said):
        running.same_work("case", {"tensors": [one()], "other": [one(), different, different]}, 0.1)


def test_ways_take_turns_and_one_that_fails_is_left_out(bench: Any) -> None:
    running, order = bench("running"), []

    def way(name: str, fails_at: int | None = None) -> Any:
        def run(job: dict[str, Any]) -> dict[str, Any]:
            order.append(name)
            if job["seed"] == fails_at:
                raise running.FailedWayError("planted")
            assert job["count"] == (job["seed"] == 0)
            return one()

        return run

    found = running.take_turns("case", {"a": way("a"), "b": way("b"), "c": way("c", fails_at=2)}, {}, 3)
    assert order == ["c", "a", "b", "a", "b", "c", "b", "c", "a", "a", "b"]
    assert {name: len(runs) for name, runs in found.runs.items()} == {"a": 4, "b": 4}
    assert found.absent == {"c": "failed: planted"}


def test_ratios_are_of_runs_within_one_repeat(bench: Any) -> None:
    runs = {
        "dlrun": [one(seconds=99), one(seconds=1), one(seconds=4)],
        "tensors": [one(seconds=1), one(seconds=2), one(seconds=2)],
    }
    assert bench("running").ratios(runs, "dlrun") == {"tensors": {"median": 1.25, "low": 0.5, "high": 2.0}}
    assert bench("running").ratios(runs, "dlrun", late=True) == {}


def test_an_extra_command_without_its_line_of_json_is_refused(bench: Any) -> None:
    running = bench("running")
    job = dict.fromkeys(("case", "batch", "steps", "epochs", "device", "seed", "threads", "data"), 1)
    with pytest.raises(running.FailedWayError, match="no JSON with seconds and steps"):
        running.Extra("echo {steps}")(job)
    with pytest.raises(running.FailedWayError, match="exit code 1"):
        running.Extra("false")(job)


def test_a_floor_names_what_bounds_the_step(bench: Any) -> None:
    floors = bench("floors")
    device = floors.Device(operations=1e12, bandwidth=1e11, launch=2e-6)
    counted = floors.Counted(operations=10_000_000, moved=1_000_000, kernels=30)
    found = floors.floor(device, counted, 90.0)
    assert found["floors"] == pytest.approx({"compute": 10.0, "bandwidth": 10.0, "launch": 60.0})
    assert found["times_the_floor"] == pytest.approx(1.5)
    assert found["bound"] == "launch-bound"
    assert floors.floor(device, counted, 121.0)["bound"] == "host-bound"
    busy = floors.Counted(operations=10**9, moved=1_000_000, kernels=30)
    assert floors.floor(device, busy, 1100.0)["bound"] == "compute-bound"


def test_a_step_is_counted_as_arithmetic_says(bench: Any) -> None:
    import torch

    weight, x = torch.zeros(8, 4, requires_grad=True), torch.zeros(2, 4)

    def step() -> None:
        weight.grad = None
        (x @ weight.t()).sum().backward()

    counted = bench("floors").count(step, lambda step: 7)
    assert counted.kernels == 7
    assert counted.operations == 2 * (2 * 2 * 4 * 8)  # forward, and the weights' gradient
    assert counted.moved >= 4 * (2 * 4 + 4 * 8 + 2 * 8)


def test_the_graph_loop_steps_as_the_loop_over_tensors_does(bench: Any, tmp_path: Path) -> None:
    """The twin of the captured steps: the same code on the same order, run as it is written."""
    import torch

    graph, work = bench("ways.graph"), bench("work")
    torch.manual_seed(0)
    x = torch.rand(128, 1, 28, 28)
    data = {"x": x, "y": torch.arange(128) % 10, "val_x": x, "val_y": torch.arange(128) % 10, "vocabulary": 0}
    torch.save(data, tmp_path / "data.pt")
    job = {"case": "mlp32", "device": "cpu", "epochs": 2, "steps_per_epoch": 4, "seed": 0}
    made = work.Work(job | {"scratch": str(tmp_path), "data": str(tmp_path / "data.pt")})

    def as_written(stepper: Any, steps: int) -> Any:
        weights = {name: value.clone() for name, value in stepper.model.state_dict().items()}
        for _ in range(graph.WARM_UP):
            stepper.place.zero_()
            stepper.once()
        stepper.undo(weights)
        torch.manual_seed(1)
        return lambda: [stepper.once() for _ in range(steps)]

    clock = work.Clock(torch.device("cpu"))
    trained = graph.train(made, clock, as_written)
    assert trained.steps == 8
    model = made.network()
    step = made.step(model)
    torch.manual_seed(1)
    for _ in range(2):
        for rows in torch.randperm(128).split(32):
            step(data["x"][rows], data["y"][rows])
    for found, wanted in zip(trained.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.gpu
@pytest.mark.skipif("not __import__('torch').cuda.is_available()")
def test_on_a_gpu_the_graph_does_the_same_work_and_floors_are_given(repository: Path, tmp_path: Path) -> None:
    words = ["steps", "--quick", "--device", "cuda", "--root", str(tmp_path), "--cases", "mlp32", "gan", "rbm"]
    done = program(repository, *words, "--ways", "tensors", "graph", "dlrun", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for row in results(tmp_path, "steps")[0]["found"]:
        assert row["absent"] == {}
        assert row["floors"]["counted"]["kernels"] > 0
        assert set(row["floors"]["ways"]) == {"tensors", "graph", "dlrun"}


@pytest.mark.slow
def test_a_case_of_different_work_has_no_ratios_and_the_program_fails(repository: Path, tmp_path: Path) -> None:
    extra = 'lazy=echo {"seconds": 1.0, "steps": 3}'.replace('"', '\\"')
    words = ["steps", "--quick", "--root", str(tmp_path), "--cases", "mlp32", "--threads", "1"]
    done = program(repository, *words, "--extra", extra, "--results", str(tmp_path))
    assert done.returncode == 1
    assert "no ratios" in done.stderr
    found, text = results(tmp_path, "steps")
    assert found["found"][0]["ratios"] == {}
    assert "- not the same work, so no ratios: mlp32: lazy took 3 steps, tensors 4" in text


@pytest.mark.parametrize("slug", ["mlp32", "resnet20", "gan", "rbm", "autoencoder"])
def test_an_untrained_network_is_outside_the_band(slug: str, bench: Any) -> None:
    """What training comes to on Fashion-MNIST in the length of the CPU, measured with 2 to 4 seeds, is written here."""
    import torch

    came_to = {"mlp32": 0.49, "resnet20": 2.01, "gan": 0.46, "rbm": 28.4, "autoencoder": 0.026}
    case = bench("cases").case_of(slug)
    torch.manual_seed(0)
    model = case.network(0)
    x = torch.rand(100, 1, 28, 28).square() * (2 if case.pixels == "symmetric" else 1)
    x = x - 1 if case.pixels == "symmetric" else x
    with torch.no_grad():
        untrained = float(case.kind.measure(model, x, x if slug == "autoencoder" else torch.arange(100) % 10))
    running = bench("running")
    runs = {"tensors": [one(metric=came_to[slug])], "other": [one(metric=untrained)]}
    with pytest.raises(running.DifferentWorkError, match="apart"):
        running.same_work(slug, runs, case.apart("cpu"))
