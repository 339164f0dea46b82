"""A power cut at any instant: every state a disk may be in is made, and recovered from.

A disk that records what is asked of it stands in for the real one. At each instant the model keeps what was synced and
enumerates the rest: any subset of the names made, renamed or removed since the folder's last sync, and for each file
the data since its own last sync absent, half there, zeroed or whole. Mutations of the protocol must lose something.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import combinations, product
from pathlib import Path

import pytest

from dlrun.errors import CheckpointError, ConfigError
from dlrun.tracking.durable import Disk
from dlrun.tracking.run_directory import RunDirectory
from dlrun.training.container import Entry, load, pack
from dlrun.training.shelf import Shelf

SAVES, MUTATED_SAVES = 6, 2
ALL_SUBSETS_UP_TO = 8
Names = dict[str, int]  # name -> number of the file


class RecordingDisk(Disk):
    """The real disk, and a list of what was asked of it."""

    def __init__(self) -> None:
        self.operations: list[tuple] = []
        self.files: dict[int, int] = {}  # descriptor -> number of the file
        self.created = 0

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self.created += 1
        self.files[fd] = self.created
        self.operations.append(("create", path.name, self.created))
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> None:
        super().write(fd, data)
        self.operations.append(("write", self.files[fd], bytes(data)))

    def sync(self, fd: int) -> None:
        self.operations.append(("sync", self.files[fd]))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.operations.append(("rename", old.name, new.name))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.operations.append(("remove", path.name))

    def sync_folder(self, folder: Path) -> None:
        self.operations.append(("sync_folder",))

    def acknowledge(self, what: str, number: int) -> None:
        self.operations.append(("acknowledge", what, number))


class NoFileSync(RecordingDisk):
    def sync(self, fd: int) -> None:
        pass


class NoFolderSync(RecordingDisk):
    def sync_folder(self, folder: Path) -> None:
        pass


class Machine:
    """What is on the device and what is only in memory, after some operations."""

    def __init__(self) -> None:
        self.durable: Names = {}
        self.pending: list[Callable[[Names], None]] = []
        self.current: Names = {}
        self.synced: dict[int, bytes] = {}
        self.latest: dict[int, bytes] = {}
        self.acknowledged: dict[str, int] = {}

    def apply(self, operation: tuple) -> None:
        kind, *rest = operation
        if kind == "write":
            self.latest[rest[0]] += rest[1]
        elif kind == "sync":
            self.synced[rest[0]] = self.latest[rest[0]]
        elif kind == "acknowledge":
            self.acknowledged[rest[0]] = rest[1]
        elif kind == "sync_folder":
            self.durable, self.pending = dict(self.current), []
        else:
            change = self.change(kind, *rest)
            change(self.current)
            self.pending.append(change)

    def change(self, kind: str, name: str, other: str | int = 0) -> Callable[[Names], None]:
        if kind == "create":
            self.synced[other] = self.latest[other] = b""
            return lambda names: names.update({name: other})
        if kind == "remove":
            return lambda names: names.pop(name, None)
        number = self.current[name]
        return lambda names: (names.pop(name, None), names.update({other: number}))

    def states(self) -> Iterator[dict[str, bytes]]:
        """Every content of the folder that a power cut now may leave."""
        count = len(self.pending)
        sizes = range(count + 1) if count <= ALL_SUBSETS_UP_TO else (0, 1, count - 1, count)
        for size in sizes:
            for chosen in combinations(self.pending, size):
                names = dict(self.durable)
                for change in chosen:
                    change(names)
                for contents in product(*(self.variants(number) for number in names.values())):
                    yield dict(zip(names, contents, strict=True))

    def variants(self, number: int) -> list[bytes]:
        synced, latest = self.synced[number], self.latest[number]
        if synced == latest:
            return [latest]
        return [synced, latest[: len(latest) // 2], bytes(len(latest)), latest]


Recover = Callable[[Path], dict[str, int]]


def power_cuts(disk: RecordingDisk, recover: Recover, folder: Path) -> dict[str, int]:
    """Counts of distinct crash states, of those that lost something acknowledged, and of those that loaded garbage."""
    machine, counts = Machine(), {"states": 0, "lost": 0, "garbage": 0}
    seen = set()
    for operation in [("start",), *disk.operations]:
        if operation != ("start",):
            machine.apply(operation)
        for state in machine.states():
            key = (frozenset(state.items()), frozenset(machine.acknowledged.items()))
            if key in seen:
                continue
            seen.add(key)
            counts["states"] += 1
            restore(folder, state)
            found = recover(folder)
            counts["lost"] += any(found.get(what, 0) < number for what, number in machine.acknowledged.items())
            counts["garbage"] += "garbage" in found
    return counts


def restore(folder: Path, state: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in state.items():
        (folder / name).write_bytes(content)


def chunks(step: int) -> list[bytes | memoryview]:
    return pack([Entry("weight", "U8", (64,), bytes([step]) * 64)], "{}", step)


def save_all(
    disk: RecordingDisk, folder: Path, saves: int, *, prune_first: bool = False, in_place: bool = False
) -> None:
    """Save some steps and the best, by the protocol or by a broken one."""
    folder.mkdir()
    shelf = Shelf(folder, disk=disk)
    for step in range(1, saves + 1):
        if prune_first:
            for path in shelf.steps().values():
                disk.remove(path)
            disk.sync_folder(folder)
        shelf.save(step, chunks(step))
        disk.acknowledge("newest", step)
        if in_place:
            overwrite(shelf.best_path, step, disk)
        else:
            shelf.save_best(chunks(step))
        disk.acknowledge("best", step)


def overwrite(path: Path, step: int, disk: RecordingDisk) -> None:
    with suppress(FileNotFoundError):
        disk.remove(path)
    fd = disk.create(path)
    for chunk in chunks(step):
        disk.write(fd, chunk)
    disk.sync(fd)
    disk.close(fd)
    disk.sync_folder(path.parent)


def recovered(folder: Path) -> dict[str, int]:
    """What a resume finds, garbage when what it loads is not what was saved."""
    shelf, found = Shelf(folder), {}
    with suppress(CheckpointError):
        if newest := shelf.newest():
            found["newest"] = newest[0][-1]
            if newest[0] != b"".join(chunks(newest[0][-1])):
                found["garbage"] = 1
    with suppress(CheckpointError):
        data = load(shelf.best_path)[0]
        found["best"] = data[-1]
        if data != b"".join(chunks(data[-1])):
            found["garbage"] = 1
    return found


def believed(folder: Path) -> dict[str, int]:
    """What a resume without a digest finds: the newest name, whatever is in it."""
    found, steps = recovered(folder), Shelf(folder).steps()
    if steps:
        step = max(steps)
        found["newest"] = step
        if steps[step].read_bytes() != b"".join(chunks(step)):
            found["garbage"] = 1
    return found


def test_no_power_cut_loses_an_acknowledged_checkpoint(tmp_path: Path) -> None:
    disk = RecordingDisk()
    save_all(disk, tmp_path / "run", SAVES)
    counts = power_cuts(disk, recovered, tmp_path / "recovered")
    assert counts["states"] >= 100
    assert (counts["lost"], counts["garbage"]) == (0, 0)


@pytest.mark.parametrize(
    ("disk", "broken", "recover", "symptom"),
    [
        pytest.param(NoFileSync(), {}, recovered, "lost", id="no sync of the file"),
        pytest.param(NoFolderSync(), {}, recovered, "lost", id="no sync of the folder"),
        pytest.param(RecordingDisk(), {"in_place": True}, recovered, "lost", id="written in place"),
        pytest.param(RecordingDisk(), {"prune_first": True}, recovered, "lost", id="pruned before written"),
        pytest.param(NoFileSync(), {}, believed, "garbage", id="no digest"),
    ],
)
def test_each_mutation_of_the_protocol_is_caught(
    tmp_path: Path, disk: RecordingDisk, broken: dict[str, bool], recover: Recover, symptom: str
) -> None:
    save_all(disk, tmp_path / "run", MUTATED_SAVES, **broken)
    assert power_cuts(disk, recover, tmp_path / "recovered")[symptom] > 0


def write_records(disk: RecordingDisk, folder: Path) -> None:
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    run = RunDirectory(folder, disk)
    for number in range(1, SAVES + 1):
        run.write_record(number=number)
        disk.acknowledge("record", number)


def recorded(folder: Path) -> dict[str, int]:
    with suppress(ConfigError):
        return {"record": json.loads(json.dumps(RunDirectory(folder).record()))["number"]}
    return {}


@pytest.mark.parametrize(("disk", "safe"), [(RecordingDisk(), True), (NoFileSync(), False), (NoFolderSync(), False)])
def test_the_record_of_a_run_survives_a_power_cut(tmp_path: Path, disk: RecordingDisk, safe: bool) -> None:
    write_records(disk, tmp_path / "run")
    counts = power_cuts(disk, recorded, tmp_path / "recovered")
    assert (counts["lost"] == 0) == safe
    assert counts["states"] > 20
