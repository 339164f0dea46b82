"""What is written where: harmless cells, sheets, names that do not meet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dlrun.output_files import picture_files, sheet, write_csv, write_picture


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-cmd", "'-cmd"),
        ("@sum", "'@sum"),
        ("\tx", "'\tx"),
        ("-3.5", "-3.5"),
        ("cat", "cat"),
        (-2, "-2"),
    ],
)
def test_a_cell_that_a_spreadsheet_would_run_starts_with_a_quote(value: object, written: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"input": value}])
    assert (tmp_path / "a.csv").read_bytes().decode() == f"input\r\n{written}\r\n"


def test_no_rows_leave_a_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "deep" / "a.csv", [])
    assert (tmp_path / "deep" / "a.csv").read_text() == "input\n"


def test_names_that_meet_are_numbered(tmp_path: Path) -> None:
    files = [Path("a/x.png"), Path("b/x.jpg"), Path("c/x-2.png"), Path("d/x.png")]
    found = [path.stem for path in picture_files(files, None, tmp_path)]
    assert found == ["x", "x-3", "x-2", "x-4"]


def test_pictures_side_by_side_on_white() -> None:
    tiles = torch.zeros(5, 3, 4, 6)
    whole = sheet(tiles)
    assert whole.shape == (3, 2 * 6 + 2, 3 * 8 + 2)
    assert (whole == 0).sum() == 5 * 3 * 24
    assert whole[:, 8:12, 18:24].min() == 1  # the sixth place is empty


def test_grey_and_colour_as_png(tmp_path: Path) -> None:
    write_picture(tmp_path / "grey.png", torch.full((1, 2, 3), 0.5))
    write_picture(tmp_path / "red.png", torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 2, 3))
    with Image.open(tmp_path / "grey.png") as grey, Image.open(tmp_path / "red.png") as red:
        assert (grey.mode, grey.size, grey.getpixel((0, 0))) == ("L", (3, 2), 128)
        assert (red.mode, red.size, red.getpixel((2, 1))) == ("RGB", (3, 2), (255, 0, 0))
