"""Folders of runs and sweeps: their names, and which are which."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrun.tracking.folders import Place, age, is_sweep, making, places, read_table, slug, sweep_paths
from dlrun.tracking.jsonable import plain


@given(
    st.text() | st.sampled_from(["../..", "/etc", "a\0b", "-rf", "%s{}$(x)", "CON.", "\u202eabc", "x" * 300, "é" * 200])
)
def test_any_label_becomes_a_name_inside_the_root(label: str) -> None:
    name = slug(label)
    assert 1 <= len(name.encode()) <= 100
    assert name.isascii()
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert slug(name) == name


def test_the_names_of_a_trial() -> None:
    trial = Place(Path("o/2026-11-20/100000-sweep-mlp-aaaa/0003-seed1"), "100000-sweep-mlp-aaaa")
    assert trial.name == "100000-sweep-mlp-aaaa/0003-seed1"
    assert trial.full_name == "2026-11-20/100000-sweep-mlp-aaaa/0003-seed1"
    assert trial.matches("0003")
    assert trial.matches("aaaa/0003")
    assert not trial.matches("aaaa"), "part of a sweep's name means the sweep"
    assert trial.is_called("0003-seed1")
    run = Place(Path("o/2026-11-20/100000-mlp-aaaa"))
    assert (run.name, run.full_name) == ("100000-mlp-aaaa", "2026-11-20/100000-mlp-aaaa")


def test_runs_trials_and_sweeps_are_told_apart(tmp_path: Path) -> None:
    day = tmp_path / "2026-11-20"
    for name in ("100000-mlp-aaaa", "renamed", "100001-sweep-a-bbbb/0000-seed1", "moved-sweep/12345-seed0"):
        (day / name).mkdir(parents=True)
        (day / name / "run.json").write_text("{}")
    (day / "100001-sweep-a-bbbb" / "configs").mkdir()
    (day / "100001-sweep-a-bbbb" / "0001-seed0").mkdir()
    (day / "moved-sweep" / "sweep.json").write_text("{}")
    (day / "100002-sweep-torn-cccc").mkdir()  # its maker was killed before it wrote sweep.json
    (day / "100003-sweep-net-dddd").mkdir()  # a run of a model that is called so
    (day / "100003-sweep-net-dddd" / "run.json").write_text("{}")
    (day / "notes").mkdir()
    assert sorted(place.name for place in places(tmp_path)) == [
        "100000-mlp-aaaa",
        "100001-sweep-a-bbbb/0000-seed1",
        "100001-sweep-a-bbbb/0001-seed0",
        "100003-sweep-net-dddd",
        "moved-sweep/12345-seed0",
        "renamed",
    ]
    assert sorted(path.name for path in sweep_paths(tmp_path)) == [
        "100001-sweep-a-bbbb",
        "100002-sweep-torn-cccc",
        "moved-sweep",
    ]
    assert not is_sweep(day / "100009-sweep-absent-aaaa")


def test_age_is_by_name_for_a_run_and_by_record_for_a_trial() -> None:
    run = {"path": "o/2026-11-20/120000-mlp-aaaa", "created": "2026-11-20T12:00:00.5+01:00"}
    before = {"path": "o/2026-11-20/100000-sweep-a-bbbb/0001-seed0", "created": "2026-11-20T11:59:59.9+01:00"}
    after = {"path": "o/2026-11-20/100000-sweep-a-bbbb/0000-seed0", "created": "2026-11-20T12:00:01.1+01:00"}
    unread = {"path": "o/2026-11-20/100000-sweep-a-bbbb/0002-seed0"}
    assert sorted([after, run, unread, before], key=age) == [unread, before, run, after]


def test_a_table_comes_back_with_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(plain({"a": -math.inf, "b": {"c": [math.nan, 1.5]}, "d": "x"})))
    table = read_table(path)
    assert table["a"] == -math.inf
    assert math.isnan(table["b"]["c"][0])
    assert (table["b"]["c"][1], table["d"]) == (1.5, "x")
    path.write_text("[1]")
    with pytest.raises(ValueError, match="it is not a table"):
        read_table(path)


def test_other_errors_pass_through_making(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), making("run", tmp_path):
        _ = 1 // 0
