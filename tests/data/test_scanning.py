import os
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlrun.data.scanning import Count, Names, files_below
from dlrun.errors import DataError
from screens import Clock, Terminal


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_names_are_kept_as_they_are(names):
    kept = Names(names)
    assert list(kept) == names
    assert [kept[-1 - place] for place in range(len(names))] == names[::-1]
    assert list(kept.take(torch.arange(len(names)).flip(0))) == names[::-1]
    with pytest.raises(IndexError):
        kept[len(names)]


def test_a_name_that_is_no_text_survives():
    name = os.fsdecode(b"photo\xff.png")
    assert list(Names([name, "", "b"])) == [name, "", "b"]


def test_names_take_little_memory():
    names = [f"n{number:08d}.jpg" for number in range(20_000)]
    tracemalloc.start()
    kept = Names(names)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 25 * len(kept)  # 13 letters and a number of 8 bytes; a list of them takes 70


def test_files_are_in_the_order_of_their_paths(tmp_path):
    for name in ("a/z.png", "a-b/y.png", "a.png", "a/b/c.PNG", "b.jpg", "b.txt", ".hidden/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, ignored = files_below(str(tmp_path), (".png",))
    assert [tmp_path / name for name in found] == sorted(
        p for p in tmp_path.rglob("*.[pP][nN][gG]") if "hidden" not in str(p)
    )
    assert ignored == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match="closed cannot be listed: Permission denied"):
        files_below(str(tmp_path), (".png",))


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(DataError, match="gone cannot be listed: No such file"):
        files_below(str(tmp_path / "gone"), (".png",))


def test_a_long_search_shows_on_a_terminal_that_it_lives(monkeypatch):
    out, clock = Terminal(), Clock()
    monkeypatch.setattr("sys.stderr", out)
    monkeypatch.setattr("dlrun.data.scanning.time.monotonic", clock)
    count = Count("images found")
    count.add(1000)
    assert out.getvalue() == ""
    clock.time = 3.0
    count.add(500)
    count.add(1)
    assert out.getvalue() == "\rimages found: 1,500"
    count.end()
    assert out.getvalue().endswith("\x1b[2K")


def test_a_log_file_gets_no_count(capsys):
    count = Count("images found")
    count._due = 0.0
    count.add(5)
    count.end()
    assert capsys.readouterr().err == ""


def test_the_search_counts_what_it_finds(tmp_path: Path):
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    count = Count("images")
    files_below(str(tmp_path), (".png",), count)
    assert count._found == 3
