import io
import json
import re

import pytest

from dlrun.cli import tables
from dlrun.cli.tables import Table, plain_table, print_json, print_tables

TABLE = Table(
    "t", ("name", "a\x1b[1m", "count"), "llr", [("[red]x", "\x1b[31m", "1"), ("y", "zz", "1,000")], ("count",)
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def drawn(monkeypatch, width, table=TABLE):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    stream = Terminal()
    print_tables([table], stream)
    return stream.getvalue()


def test_plain_tables_are_aligned_and_escaped():
    assert plain_table(TABLE).splitlines() == [
        "t",
        "  name    a\\x1b[1m  count",
        "  [red]x  \\x1b[31m      1",
        "  y       zz        1,000",
    ]


def test_a_table_without_rows_or_headings_is_its_title():
    assert plain_table(Table("t", ("", ""), "ll", [])) == "t"
    assert plain_table(Table("", ("a", "b"), "ll", [])) == "  a  b"


def test_a_terminal_shows_the_same_cells(monkeypatch):
    text = drawn(monkeypatch, 60)
    assert all(cell in text for cell in ("name", "[red]x", "\\x1b[31m", "a\\x1b[1m", "1,000"))
    assert "\x1b[31m" not in text


def test_a_narrow_terminal_does_without_the_spare_columns(monkeypatch):
    text = drawn(monkeypatch, 21)
    assert "count" not in text
    assert "[red]x" in text
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())) <= 21


@pytest.mark.parametrize("width", [1, 3, 8])
def test_no_width_is_too_narrow(monkeypatch, width):
    assert drawn(monkeypatch, width)


def test_json_is_standard(capsys, tmp_path):
    print_json({"a": float("nan"), "b": [float("inf"), -float("inf"), 1, True, None], "c": (tmp_path, "é"), 1: {}})
    text = capsys.readouterr().out
    shown = {"a": "NaN", "b": ["Infinity", "-Infinity", 1, True, None], "c": [str(tmp_path), "é"], "1": {}}
    assert json.loads(text, parse_constant=pytest.fail) == shown


def test_only_a_terminal_that_moves_its_cursor_is_interactive(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert tables.interactive(Terminal())
    assert not tables.interactive(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not tables.interactive(Terminal())
