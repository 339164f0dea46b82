"""Marks are this user's alone, and there are none without a place for the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlrun.tracking.own import is_own, mark


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_a_mark_is_of_one_value_and_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"launcher": "slurm", "options": {"setup": ["module load cuda"]}}
    found = mark(value)
    assert is_own(value, found)
    assert is_own(dict(reversed(value.items())), found)
    assert not is_own(value | {"launcher": "ray"}, found)
    assert not is_own(value, "")
    assert not is_own(value, None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert not is_own(value, found)
    assert mark(value) != found


def test_the_key_is_for_its_user_alone(state: Path) -> None:
    mark(1)
    assert (state / "dlrun" / "key").stat().st_mode & 0o777 == 0o600


def test_where_no_key_can_be_written_there_is_no_mark(state: Path) -> None:
    (state / "dlrun").write_text("in the way")
    assert mark(1) == ""
    assert not is_own(1, mark(1))


def test_a_damaged_key_marks_nothing(state: Path) -> None:
    found = mark(1)
    (state / "dlrun" / "key").write_bytes(b"short")
    assert mark(1) == ""
    assert not is_own(1, found)
