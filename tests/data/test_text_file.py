import gzip
import os

import pytest

from dlrun.data import text_file
from dlrun.data.text_file import TextFile
from dlrun.errors import DataError

GREEK = "größe, alpha\nβ is a letter\n"


def write(folder, content, name="some.txt"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    file = TextFile(write(tmp_path, GREEK.replace("\n", end).encode(encoding)))
    assert file.text == GREEK
    assert file.encoding == {"utf-8-sig": "UTF-8"}.get(encoding, encoding.upper())
    assert file.note == ()


def test_latin_1_is_read_and_told(tmp_path):
    file = TextFile(write(tmp_path, "Café – déjà vu\n".encode("cp1252")))
    assert file.text == "Café – déjà vu\n"
    assert "latin-1" in file.note[0]


def test_the_digest_is_that_of_the_bytes(tmp_path):
    first, second = (TextFile(write(tmp_path, content)) for content in ("a\nb", "a\r\nb"))
    assert first.text == second.text
    assert first.digest != second.digest


def test_one_stray_control_code_is_let_through(tmp_path):
    assert "\x07" in TextFile(write(tmp_path, "a bell\x07 rings\n")).text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \r\n \n", "is empty"),
        (b"one\ntwo\0three\n", "line 2: a NUL byte"),
        (b"fine\nnot fine: \x81\x8d\n", "line 2: byte 0x81 is not UTF-8 or latin-1"),
        (b"one\n\x01\x02\x03\x04 two\n", "line 2: byte 0x01 is a control code"),
        (b"\xff\xfea", "is not UTF-16 text"),
        (gzip.compress(b"a text", mtime=0), "gzip-compressed, not plain text"),
        (b"\x89PNG\r\n\x1a\n", "a picture, not plain text"),
        (b"%PDF-1.7\n", "a PDF document, not plain text"),
    ],
)
def test_what_is_no_text_is_refused_with_a_sentence(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as raised:
        TextFile(write(tmp_path, content))
    assert "some.txt" in str(raised.value)


def test_a_web_page_is_a_text(tmp_path):
    assert TextFile(write(tmp_path, "<html><body>words</body></html>")).text.startswith("<html>")


def test_missing_files_have_near_names(tmp_path):
    write(tmp_path, "x", "shakespeare.txt")
    with pytest.raises(DataError, match=r"did you mean .*shakespeare\.txt"):
        TextFile(tmp_path / "shakspeare.txt")
    with pytest.raises(DataError, match="nor does its folder"):
        TextFile(tmp_path / "none" / "some.txt")


def test_folders_pipes_and_large_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="is a folder"):
        TextFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="a pipe"):
        TextFile(tmp_path / "pipe")
    monkeypatch.setattr(text_file, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="head -c"):
        TextFile(write(tmp_path, 11 * b"x"))


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = write(tmp_path, "x")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        TextFile(path)
