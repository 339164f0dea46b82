import io
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dlrun.console import Plain, Screen, make_reporter
from screens import Clock, Terminal, usual_terminal


@dataclass
class Row:
    name: str
    kind: str = "Linear"
    input_shape: tuple = (64,)
    output_shape: tuple = (32,)
    parameters: int = 2080
    multiply_adds: int = 2048


@dataclass
class Facts:
    kind: str = "image"


@dataclass
class Description:
    facts: Facts = field(default_factory=Facts)
    choices: list = field(default_factory=lambda: [("data", "digits [bold]", "why")])
    layers: list = field(default_factory=lambda: [Row(f"layer{i}") for i in range(100)])
    notes: tuple = ("a note",)


@dataclass
class Evaluation:
    split: str
    step: int
    epoch: float
    metrics: dict


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    usual_terminal(monkeypatch)


def screen(monkeypatch, width=100):
    monkeypatch.setenv("COLUMNS", str(width))
    stream, clock = Terminal(), Clock()
    return Screen(stream, now=clock), stream, clock


def whole_run(reporter, clock=lambda: 0.0):
    reporter.experiment(Description(), Path("outputs/run\x1b[31m"))
    reporter.evaluation(Evaluation("val", 0, 0.0, {"loss": 2.3, "accuracy": 0.1}), {"accuracy": 0.2}, 100)
    reporter.progress(10, 100, 0.1, {"train/loss": 1.25, "rate": 0.01, "val/loss": 2.0, "val/accuracy": 0.5})
    reporter.warn("the loss\nstands still")
    reporter.evaluation(Evaluation("val", 100, 2.0, {"loss": 0.5, "accuracy": 0.9}), {"val/accuracy": 0.2}, 100)
    reporter.note("early stop")
    reporter.closing(
        "done", {"test/accuracy": 0.9, "test/loss": 1e-9}, {"test/accuracy": 0.2}, Path("p"), {"time": "0:01"}
    )
    reporter.stop()


def test_a_pipe_gets_plain_lines():
    stream = io.StringIO()
    whole_run(Plain(stream))
    text = stream.getvalue()
    lines = [line.split() for line in text.splitlines()]
    assert "\x1b" not in text
    assert text.isascii()
    assert "run: outputs/run\\x1b[31m" in text
    assert "warning: the loss\\nstands still" in text
    assert lines.count(["step", "epoch", "train/loss", "val/loss", "val/accuracy", "baseline", "accuracy"]) == 1
    assert ["0", "0.0", "-", "2.300", "0.1000", "0.2000"] in lines
    assert ["100", "2.0", "1.250", "0.5000", "0.9000", "0.2000"] in lines
    assert ["test/loss", "1.000e-09"] in lines


def test_lines_of_evaluations_are_aligned_and_the_test_part_waits_for_the_closing_table():
    stream = io.StringIO()
    plain = Plain(stream)
    plain.evaluation(Evaluation("test", 1, 1.0, {"loss": 0.5}), {}, None)
    for step in (0, 12345):
        plain.evaluation(Evaluation("val", step, 1.0, {"loss": 0.5, "r2": -0.25}), {}, None)
    assert stream.getvalue().splitlines() == [
        "    step     epoch  train/loss  val/loss    val/r2",
        "       0       1.0           -    0.5000   -0.2500",
        "  12,345       1.0           -    0.5000   -0.2500",
    ]


def test_a_deep_network_is_shortened_and_its_sums_are_whole():
    stream = io.StringIO()
    whole_run(Plain(stream))
    text = stream.getvalue()
    assert text.count("Linear") == 23
    assert "77 more layers: dlrun show prints them" in text
    assert "208,000" in text


def test_a_pipe_gets_progress_every_ten_seconds():
    stream, clock = io.StringIO(), Clock()
    plain = Plain(stream, now=clock)
    for second in range(31):
        clock.time = float(second)
        plain.progress(second * 10, 1000, second / 100, {"train/loss": 0.5, "gradient_norm": 3.0})
    assert stream.getvalue().splitlines() == [
        "10%  step 100/1,000  1:30 left  train/loss 0.5000  10 steps/s",
        "20%  step 200/1,000  1:20 left  train/loss 0.5000  10 steps/s",
        "30%  step 300/1,000  1:10 left  train/loss 0.5000  10 steps/s",
    ]


def test_time_left_of_a_resumed_run_counts_from_where_it_resumed():
    stream, clock = io.StringIO(), Clock()
    plain = Plain(stream, now=clock)
    plain.progress(500, None, 0.5, {})
    clock.time = 10.0
    plain.progress(600, None, 0.6, {})
    assert stream.getvalue() == "60%  step 600  0:40 left  10 steps/s\n"


def test_slow_steps_are_told_in_seconds():
    stream, clock = io.StringIO(), Clock()
    plain = Plain(stream, now=clock)
    plain.progress(0, None, 0.0, {})
    clock.time = 10.0
    plain.progress(4, None, 0.5, {})
    assert stream.getvalue().endswith("2.5 s/step\n")


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20, 40, 79, 100, 300])
def test_no_width_breaks_the_screen_and_the_bar_keeps_to_one_line(monkeypatch, width):
    reporter, stream, _ = screen(monkeypatch, width)
    whole_run(reporter)
    for share in (-1.0, 0.0, 0.5, 1.0, 2.0):
        line = reporter._bar(share, [f"{share:.0%}", "step 1,000,000/2,000,000", "1:00:00 left", "train/loss 0.1"])
        assert len(line.plain) <= max(width - 1, 0)
    assert stream.getvalue()


def test_the_bar_shows_what_a_person_asks_first(monkeypatch):
    reporter, stream, clock = screen(monkeypatch)
    values = {"train/loss": 1.25, "rate": 0.01, "val/loss": 2.0, "val/accuracy": 0.5}
    reporter.progress(0, 100, 0.0, values)
    clock.time = 2.0
    reporter.progress(50, 100, 0.5, values)
    reporter.stop()
    text = stream.getvalue()
    for part in ("━", "50%", "step 50/100", "0:02 left", "train/loss 1.250", "val/accuracy 0.5000", "25 steps/s"):
        assert part in text
    assert "rate" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor comes back


def test_a_warning_and_a_print_stand_above_the_bar(monkeypatch):
    import sys

    reporter, stream, _ = screen(monkeypatch)
    monkeypatch.setattr(sys, "stdout", stream)
    reporter.progress(1, 100, 0.01, {})
    reporter.warn("careful [red]")
    print("from a model")
    print("from a library", file=sys.stderr)
    reporter.progress(2, 100, 0.02, {})
    reporter.stop()
    text = stream.getvalue()
    assert (
        text.index("careful [red]")
        < text.index("from a model")
        < text.index("from a library")
        < text.index("step 2/100")
    )
    reporter.stop()  # twice is harmless
    assert sys.stdout is stream


def test_no_color_means_no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    reporter, stream, _ = screen(monkeypatch)
    whole_run(reporter)
    assert "\x1b[33m" not in stream.getvalue()
    assert "\x1b[36m" not in stream.getvalue()


def test_names_are_never_read_as_markup_or_control_codes(monkeypatch):
    reporter, stream, _ = screen(monkeypatch)
    whole_run(reporter)
    assert "digits [bold]" in stream.getvalue()
    assert "run\\x1b[31m" in stream.getvalue()


def test_an_ascii_terminal_gets_an_ascii_bar(monkeypatch):
    class Ascii(Terminal):
        encoding = "ascii"

    reporter = Screen(Ascii())
    assert reporter._bar(0.5, ["50%"]).plain.isascii()


@pytest.mark.parametrize(("term", "kind"), [("xterm", Screen), ("dumb", Plain)])
def test_the_reporter_fits_the_stream(monkeypatch, capsys, term, kind):
    import sys

    assert type(make_reporter()) is Plain
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", term)
    assert type(make_reporter(to_stderr=True)) is kind


def test_a_stream_shows_how_fast_it_is_and_who_waits_for_whom() -> None:
    out, clock = io.StringIO(), Clock()
    plain = Plain(out, clock)
    plain.experiment(Description(), Path("run"))
    row = {"train/loss": 1.0, "examples_per_second": 1240.4, "data_wait": 0.376}
    for seconds, values in ((0, row), (20, row), (40, {"train/loss": 1.0, "examples_per_second": 1240.4})):
        clock.time = seconds
        plain.progress(10 + seconds, 100, 0.1, values)
    streamed, held = out.getvalue().splitlines()[-2:]
    assert streamed.endswith("1,240 images/s  waiting for data 38%")
    assert "images" not in held
