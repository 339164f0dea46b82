"""The database: every way in which it can fail is one sentence, and what was told is kept."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from dlrun.errors import ConfigError, DlrunError, StorageError
from dlrun.sweeps import storage
from dlrun.sweeps.nouns import Point, Settings
from dlrun.sweeps.search import Search
from dlrun.tracking import lock
from search_cases import grid

SPACE, POINTS = grid(40)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a study with points."""
    path = tmp_path_factory.mktemp("study") / "study.db"
    search = create(path)
    search.enqueue(POINTS)
    search.close()
    return path.read_bytes()


def create(path: Path) -> Search:
    return Search.create(f"sqlite:///{path}", "sweep", Settings(), SPACE, True)


def open_(path: Path) -> Search:
    return Search.open(f"sqlite:///{path}", "sweep", Settings(), SPACE)


def sentence(error: DlrunError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_a_study_outlives_its_process(tmp_path: Path, study: bytes) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(study)
    search = open_(path)
    assert [known.point for known in search.points()] == POINTS
    search.close()


def test_a_told_result_is_synced_to_the_disk(tmp_path: Path) -> None:
    """FULL is 2; in mode TRUNCATE SQLite then syncs the end of the journal too, which in mode DELETE it does not."""
    search = create(tmp_path / "study.db")
    with search._database.engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("PRAGMA synchronous")) == 2
        assert connection.scalar(sqlalchemy.text("PRAGMA journal_mode")) == "truncate"
    search.close()


@pytest.mark.parametrize("damage", ["head", "middle", "short"])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, study: bytes, damage: str) -> None:
    path = tmp_path / "study.db"
    page = 4096
    torn = {
        "head": b"x" * 100 + study[100:],
        "middle": study[:page] + b"\xff" * (len(study) - page),
        "short": study[: 3 * page + 17],
    }
    path.write_bytes(torn[damage])
    with pytest.raises(StorageError, match=r"damaged .* start the sweep again") as caught:
        open_(path).points()
    assert str(path) in sentence(caught.value)


@pytest.mark.parametrize("content", [None, b""])
def test_a_study_that_is_not_there_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "study.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match="there is no study"):
        open_(path)
    assert path.exists() == (content is not None)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open"):
        create(tmp_path / "nowhere" / "study.db")


def test_a_failure_in_the_middle_of_a_sweep_is_a_sentence(tmp_path: Path) -> None:
    search = create(tmp_path / "study.db")
    search.enqueue(POINTS)
    search.ask()
    with search._database.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE trial_user_attributes"))
    with pytest.raises(StorageError) as caught:
        search.finish(0, "done", 1.0)
    assert "study.db" in sentence(caught.value)
    search.close()


SECRET = "s3cr3t{x}%25"


@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("nonsense", ConfigError, "not the URL of a database"),
        ("oracle9://u:PASS@h/d", ConfigError, "needs the Python driver 'oracle9'"),
        ("mysql+mysqldb://u:PASS@h/d", ConfigError, "needs the Python driver 'mysqldb'"),
        ("postgresql://u:PASS@127.0.0.1:1/d", StorageError, "refused"),
        ("postgres://u:PASS@127.0.0.1:1/d", StorageError, "refused"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_sentence_without_the_password(
    url: str, kind: type[DlrunError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        Search.create(url.replace("PASS", SECRET), "sweep", Settings(), SPACE, True)
    assert "s3cr3t" not in sentence(caught.value)


def test_a_password_in_the_databases_own_words_is_taken_out() -> None:
    url = storage.parse_url("postgresql://u:s3cr3t@h/d")
    planted = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("no entry for u with s3cr3t\nDETAIL: more"))
    with pytest.raises(StorageError) as caught, storage.told(url):
        raise planted
    assert str(caught.value) == ("the database postgresql+psycopg://u:***@h/d cannot be used: no entry for u with ***")


def test_what_is_no_error_of_the_database_passes_through() -> None:
    with pytest.raises(ValueError, match="planted"), storage.told(storage.parse_url("sqlite:///x.db")):
        raise ValueError("planted")


def test_an_odd_folder_name_is_no_template(tmp_path: Path) -> None:
    folder = tmp_path / "a {b} % c#d"
    folder.mkdir()
    create(folder / "study.db").close()
    assert (folder / "study.db").is_file()


def test_only_one_is_inside_and_a_killed_one_lets_the_next_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = create(tmp_path / "study.db")
    holder = f"""
import os, sys
from pathlib import Path
from dlrun.tracking import lock
lock.acquire(Path({str(tmp_path / "study.db.lock")!r}))
print("inside", flush=True)
sys.stdin.readline()
os._exit(1)
"""
    other = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "inside\n"
    monkeypatch.setattr(storage, "BUSY", 0.1)
    with pytest.raises(StorageError, match=f"has not come free.*process {other.pid}"):
        search.ask()
    other.communicate("go\n")
    assert search.ask() is None  # nothing was enqueued
    search.close()


def test_the_turn_is_given_back_after_an_error(tmp_path: Path) -> None:
    search = Search.create(f"sqlite:///{tmp_path}/study.db", "sweep", Settings(sampler="random", points=1), SPACE, True)

    def make(choose: object) -> Point:
        assert lock.is_held(tmp_path / "study.db.lock")
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        search.ask(make)
    assert not lock.is_held(tmp_path / "study.db.lock")
    search.close()


def test_two_sweeps_may_make_their_tables_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the tables appear between looking and making, as they do when another sweep starts on the server."""
    attempts = []
    real = storage._open

    def late(url: sqlalchemy.engine.URL, create: bool) -> object:
        attempts.append(1)
        if len(attempts) == 1:
            raise sqlalchemy.exc.ProgrammingError("CREATE TABLE", {}, Exception("relation already exists"))
        return real(url, create)

    monkeypatch.setattr(storage, "_open", late)
    create(tmp_path / "study.db").close()
    assert len(attempts) == 2


def test_a_killed_writer_leaves_all_points_or_none(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    create(path).close()
    program = f"""
import os
from pathlib import Path
from dlrun.sweeps import tables
from dlrun.sweeps.nouns import Point, Settings, Space
from dlrun.sweeps.search import Search
search = Search.open("sqlite:///{path}", "sweep", Settings(), Space((), ()))
real, calls = tables._write_params, []
def write(*words):
    calls.append(1)
    if len(calls) == 30:
        os._exit(9)
    real(*words)
tables._write_params = write
search.enqueue([Point({{}}, (str(i),)) for i in range(40)])
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, env=os.environ).returncode == 9
    search = open_(path)
    assert search.planned() == 0
    assert search.enqueue(POINTS) == 40
    search.close()
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    plain.close()
