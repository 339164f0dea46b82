"""history.jsonl: rows come back, a torn tail costs the torn row alone, going back drops what came after."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dlrun.errors import StorageError
from dlrun.tracking.history import History

ROWS = [{"step": step, "train/loss": 1 / (step + 1), "note": "x}\\" * step} for step in range(6)]


def filled(path: Path) -> History:
    history = History(path)
    for row in ROWS:
        history.append(row)
    history.close()
    return history


def test_rows_come_back_with_non_finite_numbers(tmp_path: Path) -> None:
    history = History(tmp_path / "h")
    assert history.rows() == []
    history.append({"step": 1, "loss": math.inf, "other": -math.inf})
    history.append({"step": 2, "loss": math.nan})
    history.sync()
    assert (tmp_path / "h").read_text().splitlines()[1] == '{"step":2,"loss":"NaN"}'
    first, second = history.rows()
    assert first == {"step": 1, "loss": math.inf, "other": -math.inf}
    assert math.isnan(second["loss"])
    history.close()


def test_a_file_cut_at_any_byte_of_its_last_rows_loses_the_torn_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "h"
    filled(path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(ends[2], len(whole)):
        path.write_bytes(whole[:cut])
        complete = sum(end - 1 <= cut for end in ends)
        reader = History(path)
        assert reader.rows() == ROWS[:complete]
        assert path.stat().st_size == cut, "a reader repairs nothing"
        writer = History(path)
        writer.append({"step": 99})
        writer.close()
        assert writer.rows() == [*ROWS[:complete], {"step": 99}]
        torn = cut not in ends and cut + 1 not in ends
        assert len(writer.notes) == torn


def test_an_append_without_repair_would_lose_a_row(tmp_path: Path) -> None:
    path = tmp_path / "h"
    filled(path)
    path.write_bytes(path.read_bytes()[:-3])
    with path.open("a") as file:
        file.write('{"step":99}\n')
    history = History(path)
    assert {"step": 99} not in history.rows()
    assert history.notes == [f"1 damaged lines of {path} are left out"]


def test_a_torn_row_longer_than_a_block_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "h"
    path.write_bytes(b'{"step":1}\n{"text":"' + b"x" * 200_000)
    history = History(path)
    history.append({"step": 2})
    history.close()
    assert history.rows() == [{"step": 1}, {"step": 2}]


def test_going_back_drops_the_rows_after(tmp_path: Path) -> None:
    history = filled(tmp_path / "h")
    history.append({"note": "no step"})
    history.truncate(3)
    assert history.rows() == [*ROWS[:4], {"note": "no step"}]
    history.append({"step": 4})
    assert history.rows()[-1] == {"step": 4}
    history.close()
    History(tmp_path / "absent").truncate(3)
    assert not (tmp_path / "absent").exists()


def test_a_refusing_disk_is_noted_and_never_raised(tmp_path: Path) -> None:
    history = History(tmp_path / "absent" / "h")
    history.append({"step": 1})
    history.append({"step": 2})
    assert history.lost == 2
    assert len(history.notes) == 1
    assert "No such file" in history.notes[0]
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        History(tmp_path / "folder").rows()


def test_what_is_no_record_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold a object"):
        History(tmp_path / "h").append({"a": object()})
