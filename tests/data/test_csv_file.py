import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrun.data import csv_file
from dlrun.data.csv_file import read_table
from dlrun.data.csv_table import CSV
from dlrun.errors import DataError

PLAIN = "a,b,kind\n" + "".join(f"{i * 7 % 10}.5,{i * 3 % 11},{'xy'[i % 2]}\n" for i in range(20))


def write(folder: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", "   ", ", ", " ; "])
def test_separators_are_found(tmp_path, separator):
    table = read_table(write(tmp_path, PLAIN.replace(",", separator)))
    assert table.names == ("a", "b", "kind")
    assert table.columns[0][:3] == ["0.5", "7.5", "4.5"]
    assert table.columns[2][:2] == ["x", "y"]
    assert table.lines[:2] == [2, 3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    content = "größe,kind\n1,ä\n2,ö\n".replace("\n", end).encode(encoding)
    table = read_table(write(tmp_path, content))
    assert table.names == ("größe", "kind")
    assert table.columns == (["1", "2"], ["ä", "ö"])
    assert table.notes == ()


def test_latin_1_is_read_and_noted(tmp_path):
    table = read_table(write(tmp_path, "name,n\nJosé,1\nÆsa,2\n".encode("latin-1")))
    assert table.columns[0] == ["José", "Æsa"]
    assert "latin-1" in table.notes[0]


def test_quotes_hold_separators_and_line_breaks(tmp_path):
    table = read_table(write(tmp_path, 'name,n\n"Braund, Mr.",1\n"two\nlines",2\n"say ""hi""",3\n'))
    assert table.columns[0] == ["Braund, Mr.", "two\nlines", 'say "hi"']
    assert table.lines == [2, 3, 5]


def test_blank_lines_are_skipped_and_lines_still_counted(tmp_path):
    table = read_table(write(tmp_path, "\n\na,b\n\n1,2\n   \n3,4\n\n"))
    assert table.columns == (["1", "3"], ["2", "4"])
    assert table.lines == [5, 7]


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("a,b\n1,2\n3,4\n", True),
        ("1,2\n3,4\n", False),
        ("x,1\ny,2\n", False),
        ("p,q\np,r\nq,r\n", False),  # the first row's p comes again: a row of categories
        ("shape,colour\np,r\nq,r\n", True),
        (",a\n0,1\n1,2\n", True),
        ("?,yes\nx,no\n", True),
    ],
)
def test_header_is_found(tmp_path, content, header):
    table = read_table(write(tmp_path, content))
    assert table.header is header
    assert len(table) == content.count("\n") - header


def test_header_can_be_forced_and_known_names_make_one(tmp_path):
    path = write(tmp_path, "2019,2020\n1,2\n3,4\n")
    assert read_table(path).names == ("column_0", "column_1")
    assert read_table(path, header=True).names == ("2019", "2020")
    assert read_table(path, known=["2020"]).names == ("2019", "2020")
    texts = write(tmp_path, "colour,size\nred,big\n")
    assert read_table(texts).header
    assert not read_table(texts, prefer_rows=True).header
    assert len(read_table(texts, header=False)) == 2


def test_names_are_made_distinct(tmp_path):
    table = read_table(write(tmp_path, "a,a,,a\n1,2,3,4\n"))
    assert table.names == ("a", "a_2", "column_2", "a_3")
    assert "'a_2'" in table.notes[0]


def test_decimal_commas(tmp_path):
    table = read_table(write(tmp_path, "x;text;n\n1,5;a,1;2\n-2,25;b;3\n"))
    assert table.columns == (["1.5", "-2.25"], ["a,1", "b"], ["2", "3"])
    assert table.notes == ("column 'x' is written with decimal commas",)


def test_space_separated_table_may_be_indented(tmp_path):
    table = read_table(write(tmp_path, "   1.0   2.0  a  \n  -3.5 \t 4.0  b\n"))
    assert table.columns == (["1.0", "-3.5"], ["2.0", "4.0"], ["a", "b"])


ROWS = "".join(f"{i % 7},{'yn'[i % 2]}\n" for i in range(30))
BAD = {
    "empty": (b"", None),
    "blank": (b" \n\n  \n", None),
    "only a BOM": (b"\xef\xbb\xbf", None),
    "header only": (b"a,b,c\n", "only a header"),
    "ragged: too few": (b"a,b\n1,2\n3\n5,6\n", "line 3: expected 2 fields, found 1"),
    "ragged: too many": (b"a,b\n1,2\n5,6\n3,4,5\n", "line 4: expected 2 fields, found 3"),
    "ragged first line": (b"a title\na,b\n1,2\n5,6\n", "line 1: expected 2 fields, found 1"),
    "ragged after a long field": (b'a,b\n"1\n2",2\n3\n', "line 4: expected 2"),
    "NUL": (b"a,b\n1,2\n3,\0\n", "line 3: a NUL byte"),
    "UTF-16 without BOM": ("a,b\n1,2\n".encode("utf-16-le"), "line 1: a NUL byte"),
    "UTF-16 cut short": ("a,b\n1,2\n".encode("utf-16")[:-1], "line 2: byte"),
    "UTF-16 lone surrogate": (b"\xff\xfea\0\n\0\x00\xdc1\0", "line 2: byte"),
    "UTF-32 out of range": (b"\xff\xfe\0\0\xff\xff\xff\xff", "line 1: byte"),
    "no encoding": (b"a,b\n1,\x81\xff\n", "line 2: byte 0x81 is not UTF-8"),
    "open quote": (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: a quote that opens here"),
    "open quote in a long file": (b'a,b\n1,"2\n' + b"3,4\n" * 50_000, "line 2: a quote that opens here"),
    "text after a quote": (b'a,b\n1,2\n"3"x,4\n', "line 3: text follows a closing quote"),
    "gzip": (b"\x1f\x8b\x08\0\0\0", "gunzip"),
    "zip": (b"PK\x03\x04\x14\0", "zip"),
    "parquet": (b"PAR1\x15\x04", "Parquet"),
    "truncated parquet": (b"PAR1", "Parquet"),
    "npy": (b"\x93NUMPY\x01\0", "NumPy"),
    "png": (b"\x89PNG\r\n\x1a\n\0", "picture"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "picture"),
    "web page": (b"<!DOCTYPE html>\n<html></html>", "HTML"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "a million columns": (b"," * 1_000_000, "line 1: 1,000,001 fields"),
    "one endless line": (b"x" * 3_000_000, "only a header"),
    "one column": (b"a\n1\n2\n3\n1\n2\n", "one to learn from"),
    "one row": (b"a,b\n1,2\n", "1 row with"),
    "few rows": (b"a,b\n1,x\n2,y\n3,x\n", "at least 5"),
    "one class": (b"a,b\n1,x\n2,x\n3,x\n4,x\n5,x\n6,x\n", "one class only"),
    "one value": (b"a,b\n" + b"".join(b"%d,2.5\n" % (i % 7) for i in range(30)), None),
    "target empty": (b"a,b\n" + b"1,\n2,?\n3,NA\n" * 5, "empty"),
    "every label once": (b"a,b\n" + b"".join(b"%d,l%d\n" % (i % 7, i) for i in range(30)), "30 distinct values"),
    "text among numbers": (f"a,b\n{ROWS}oops,y\n".encode(), "line 32, column 'a': 'oops' is not a number"),
    "text among target numbers": (
        b"a,b\n" + b"".join(b"%d,%d.5\n" % (i % 7, i) for i in range(30)) + b"1,high\n",
        "line 32, column 'b': 'high' is not a number",
    ),
    "1e400": (f"a,b\n{ROWS}1e400,y\n".encode(), "line 32, column 'a': '1e400' is beyond"),
    "inf": (f"a,b\n{ROWS}-inf,y\n".encode(), "line 32, column 'a': '-inf' is beyond"),
    "1e200": (f"a,b\n{ROWS}1e200,y\n".encode(), "line 32, column 'a': '1e200' is beyond"),
    "nothing to learn from": (b"a,b\n" + b"5,x\n5,y\n" * 10, "no column to learn from"),
    "all gaps": (b"a,b\n" + b",x\n?,y\n" * 10, "no column to learn from"),
}


@pytest.mark.parametrize(("content", "says"), BAD.values(), ids=BAD.keys())
@pytest.mark.timeout(10)
def test_bad_files_are_refused_with_name_and_line(tmp_path, content, says):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        CSV(path=str(path), target=-1).facts()
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert says is None or says in sentence


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, PLAIN, "housing.csv")
    with pytest.raises(DataError, match=r"housng\.csv does not exist; did you mean data\.path=.*housing\.csv\?"):
        read_table(tmp_path / "housng.csv")
    with pytest.raises(DataError, match="nor does its folder"):
        read_table(tmp_path / "none" / "housing.csv")


@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_refused(tmp_path):
    pipe, dangling, loop = tmp_path / "pipe", tmp_path / "dangling", tmp_path / "loop"
    os.mkfifo(pipe)
    dangling.symlink_to(tmp_path / "gone")
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"is a folder; give one file"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"pipe is a pipe"):
        read_table(pipe)
    with pytest.raises(DataError, match=r"dangling is a link to a file that does not exist"):
        read_table(dangling)
    with pytest.raises(DataError, match=r"loop cannot be opened"):
        read_table(loop)
    with pytest.raises(DataError, match=r"cannot be opened"):
        read_table(tmp_path / "a\0b")
    with pytest.raises(DataError, match=r"is a pipe, socket or device"):
        read_table(Path("/dev/null"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(tmp_path):
    path = write(tmp_path, PLAIN)
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read_table(path)


def test_a_huge_sparse_file_is_refused_unread(tmp_path):
    path = tmp_path / "sparse.csv"
    with path.open("wb") as file:
        file.truncate(csv_file.MAX_BYTES + 1)
    with pytest.raises(DataError, match="head -n"):
        read_table(path)


@settings(max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_random_bytes_raise_nothing_but_data_errors(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp(), content, "random.csv")
    try:
        table = read_table(path)
    except DataError:
        return
    assert len(table) > 0
    assert len(set(table.names)) == len(table.names) == len(table.columns)
    assert all(len(column) == len(table.lines) for column in table.columns)
