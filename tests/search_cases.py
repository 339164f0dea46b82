"""Spaces and short cuts for the tests of the search."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import pytest

from dlrun.sweeps import storage
from dlrun.sweeps.known import Claimed
from dlrun.sweeps.nouns import Axis, Point, Space
from dlrun.sweeps.search import Search

RATE = Axis("optimizer.lr", low=1e-4, high=1e-1, log=True)
WIDTH = Axis("model.width", low=8, high=512, integer=True, log=True)
ACT = Axis("activation", group=True, values=("relu", "tanh"))
NUMBERS = Space((), (RATE, WIDTH, ACT))
# A group with keys that only one of its options has: 2 + 3 * 2 = 8 points.
MODEL = Axis("model", group=True, values=("svm", "cnn"))
ONLY = {"svm": (Axis("model.gamma", values=("0.1", "1.0")),)} | {
    "cnn": (Axis("model.depth", values=("1", "2", "3")), Axis("model.pool", values=("max", "mean")))
}
BRANCHES = Space((), (MODEL, *ONLY["svm"], *ONLY["cnn"]))


def maker(space: Space) -> Callable[[Callable[[Axis], str]], Point]:
    """As Composer.point: groups first, then the axes that the chosen option has."""

    def make(choose: Callable[[Axis], str]) -> Point:
        values = {axis.key: choose(axis) for axis in space.axes if axis.group}
        absent = [axis for option, axes in ONLY.items() if values.get("model", option) != option for axis in axes]
        values |= {axis.key: choose(axis) for axis in space.axes if not axis.group and axis not in absent}
        return Point(values, tuple(f"{key}={value}" for key, value in values.items()))

    return make


def take(search: Search, space: Space, most: int = 1000) -> Iterator[Claimed]:
    """Claim points until none is left; whoever takes them finishes them."""
    for _ in range(most):
        claimed = search.ask(maker(space))
        if claimed is None:
            return
        yield claimed


def report(search: Search, number: int, step: int, value: float) -> bool:
    """Tell one evaluation; whether the point is to stop."""
    return number in search.report_all({number: (step, value)})


def grid(count: int) -> tuple[Space, list[Point]]:
    """A grid of one axis."""
    axis = Axis("x", values=tuple(map(str, range(count))))
    return Space((), (axis,)), [Point({"x": value}, (f"x={value}",)) for value in axis.values]


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is written, not of when: a disk that others use makes each commit wait."""

    def connect(file: str) -> sqlite3.Connection:
        connection = real(file)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    real = storage._open_sqlite
    monkeypatch.setattr(storage, "_open_sqlite", connect)
