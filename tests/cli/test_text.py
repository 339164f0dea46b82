import math

import pytest

from dlrun.cli.text import clock, number, printable, shape, short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.91234, "0.9123"),
        (1.0, "1.000"),
        (97.0, "97.00"),
        (1234.0, "1234"),
        (9999.9, "10,000"),
        (123456.7, "123,457"),
        (4.8123e9, "4.812e+09"),
        (1.5e-5, "1.500e-05"),
        (-0.5, "-0.5000"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (1234567, "1,234,567"),
        (True, "True"),
        (None, ""),
        ("a\tb", "a\\tb"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (12345, "12.3k"), (999_900, "1.00M"), (4.56e9, "4.56G")],
)
def test_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (7, "0:07"), (185, "3:05"), (3723, "1:02:03"), (-1, "0:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_shape():
    assert shape((3, 32, 32)) == "3 x 32 x 32"
    assert shape([(64,), (2,)]) == "64, 2"


def test_control_characters_and_direction_marks_are_escaped():
    assert printable("a\x1b[31m\n\u202eb\udc80é") == "a\\x1b[31m\\n\\u202eb\\udc80é"
