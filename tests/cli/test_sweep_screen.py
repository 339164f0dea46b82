import io
import json
import re
import shlex
from dataclasses import replace

import pytest

from dlrun.cli import sweep_tables
from dlrun.cli.sweep_clock import Clocks
from dlrun.cli.sweep_screen import LiveSweep, PlainSweep, make_sweep_screen
from dlrun.cli.tables import plain_table, print_json
from dlrun.sweeps.nouns import DONE, FAILED, PRUNED, PointResult, TrialResult
from screens import Clock, Terminal, usual_terminal
from sweep_cases import METRIC, write_sweep


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    usual_terminal(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished sweep of 30 points and 2 seeds."""
    return write_sweep(tmp_path_factory.mktemp("sweep"))


def until(result, number, seconds=0.0):
    """The sweep as it stood when the points before ``number`` had ended."""
    points = []
    for point in result.points:
        if point.number >= number:
            seeds = result.space.seeds
            trials = tuple(TrialResult(seed, "waiting", point.trials[0].folder) for seed in seeds)
            point = PointResult(point.number, point.point, "waiting", trials)
        points.append(point)
    return replace(result, points=tuple(points), seconds=seconds)


def screen(monkeypatch, width=120, height=30):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", str(height))
    stream, clock = Terminal(), Clock()
    return LiveSweep(stream, now=clock), stream, clock


def drawn(live, result, running):
    """The lines of the live table as a person sees them."""
    with live._console.capture() as capture:
        live._console.print(live._table(result, running))
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()


def end(shown, point):
    for trial in point.trials:
        shown.ended(point, trial)


def whole_sweep(shown, result):
    shown.begin(until(result, 0), result.folder)
    shown.note("a note\x1b[31m")
    shown.warn("careful [red]")
    for point in result.points:
        end(shown, point)
        shown.update(until(result, point.number + 1), {(point.number + 1, 0): "step 10"})
    shown.closing(result)
    shown.stop()


def test_a_pipe_gets_a_plain_line_for_each_trial_that_ends(whole):
    stream = io.StringIO()
    whole_sweep(PlainSweep(stream, now=Clock()), whole)
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.isascii()
    lines = text.splitlines()
    trials = sum(len(point.trials) for point in whole.points)
    assert len([line for line in lines if line.startswith("[")]) == trials
    first = whole.points[0]
    values = sweep_tables.values(first.point.values)
    assert lines[4] == f"[1/60] point 0 seed 0 {values}: done {METRIC} {first.trials[0].value:.4f}, 9 s"
    assert f"[{trials}/{trials}] point 29 seed 1" in text  # seeds of pruned points are never run


def test_a_failure_is_told_at_once_with_its_sentence(whole):
    stream = io.StringIO()
    plain = PlainSweep(stream, now=Clock())
    plain.begin(until(whole, 5), whole.folder)
    end(plain, whole.points[5])
    (line,) = (line for line in stream.getvalue().splitlines() if "failed" in line)
    assert line.startswith("[9/57] failed: point 5 seed 1: killed by signal 9 (SIGKILL)")
    assert "0005-seed1/output.log" in line


def test_an_equal_run_that_was_there_already_is_said_to_be(whole):
    stream = io.StringIO()
    plain = PlainSweep(stream, now=Clock())
    plain.begin(until(whole, 0), whole.folder)
    plain.ended(whole.points[0], replace(whole.points[0].trials[0], reused=True))
    assert stream.getvalue().endswith("taken over from an equal run\n")


def test_a_pipe_gets_progress_at_most_every_ten_seconds(whole):
    stream, clock = io.StringIO(), Clock()
    plain = PlainSweep(stream, now=clock)
    plain.begin(until(whole, 3), whole.folder)
    before = len(stream.getvalue().splitlines())
    for second in range(21):
        clock.time = float(second)
        plain.update(until(whole, 3, float(second)), {(3, 0): "step 1"})
    lines = stream.getvalue().splitlines()[before:]
    best = f"best {METRIC} 0.7826 +- 0.0075 (point 0: "
    assert [line.partition(";")[0] for line in lines] == ["2 done, 2 pruned, 54 waiting"] * 2
    assert all(best in line for line in lines)
    assert ["; 0:10, about" in lines[0], "; 0:20, about" in lines[1]] == [True, True]


def test_the_live_table_shows_what_a_person_asks_first(whole, monkeypatch):
    live, _, clock = screen(monkeypatch)
    now = until(whole, 12, 75.0)
    live.begin(now, whole.folder)
    live._clocks.see({(12, 0): ""})
    clock.time = 65.0
    live._clocks.see({(12, 0): "", (13, 1): ""})
    lines = drawn(live, now, {(12, 0): "step 120/1000 val/accuracy 0.93", (13, 1): ""})
    assert "━" in lines[0]
    assert "19/55 trials  1:15, about" in lines[0]
    assert lines[1].endswith(": 11 done, 5 pruned, 1 failed, 2 diverged, 36 waiting")
    assert f"best {METRIC} 0.8817 ± 0.0033 (point 3: model=cnn" in lines[2]
    assert lines[3].split()[:7] == ["point", "12", "seed", "0", "1:05", "step", "120/1000"]
    assert lines[4].split()[:6] == ["point", "13", "seed", "1", "0:00", "model=mlp"]
    assert [line.split()[0] for line in lines[5:]] == ["failed:", "diverged:", "diverged:"]
    assert "killed by signal 9" in lines[5]


@pytest.mark.parametrize("width", [1, 5, 20, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 4, 8, 50])
def test_the_live_table_fits_every_terminal(whole, monkeypatch, width, height):
    live, _, _ = screen(monkeypatch, width, height)
    now = until(whole, 12)
    live.begin(now, whole.folder)
    running = {(number, seed): "step 1" for number in range(12, 22) for seed in (0, 1)}
    lines = drawn(live, now, running)
    assert 1 <= len(lines) <= max(height - 1, 1)
    assert max(map(len, lines)) <= width
    if (width, height) == (80, 8):
        assert lines[-2].strip() == "and 18 more running"
        assert lines[-1].strip().startswith("diverged")


def test_the_live_table_is_drawn_five_times_a_second_at_most(whole, monkeypatch):
    live, stream, clock = screen(monkeypatch)
    now = until(whole, 4)
    live.begin(now, whole.folder)
    for hundredth in range(100):
        clock.time = hundredth / 100
        live.update(now, {})
    assert stream.getvalue().count("trials  0:00") == 5
    end(live, whole.points[5])  # a failure is shown with the next call
    live.update(now, {})
    assert stream.getvalue().count("trials  0:00") == 6
    live.stop()
    live.stop()  # twice is harmless
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1  # the cursor comes back


@pytest.mark.parametrize("width", [1, 10, 40, 79, 120, 300])
def test_no_width_breaks_the_screen(whole, monkeypatch, width):
    live, stream, _ = screen(monkeypatch, width)
    whole_sweep(live, whole)
    text = stream.getvalue()
    assert "careful [red]" in text
    assert "a note\\x1b[31m" in text


def test_an_ascii_terminal_gets_ascii(whole, monkeypatch):
    class Ascii(Terminal):
        encoding = "ascii"

    live = LiveSweep(Ascii(), now=Clock())
    now = until(whole, 12)
    live.begin(now, whole.folder)
    assert "\n".join(drawn(live, now, {(12, 0): "step 1"})).replace("\x1b", "").isascii()


def test_the_end_tells_everything(whole, monkeypatch):
    for file in ("report.html", "points.csv", "trials.csv"):
        (whole.folder / file).touch()
    live, stream, _ = screen(monkeypatch)
    plain = PlainSweep(plainly := io.StringIO(), now=Clock())
    for shown in (live, plain):
        shown.closing(whole, ["--config-dir", "my conf"])
    for text, plus in ((stream.getvalue(), "±"), (plainly.getvalue(), "+-")):
        for part in (f"0.9009 {plus} 0.0014", "71%", "report.html", "points.csv", "trials.csv", "0014-seed0",
                     "36 done, 10 pruned, 2 failed, 2 diverged", "12:34"):  # fmt: skip
            assert part in text
        assert text.count("killed by signal 9") == 1
        command = next(line for line in text.splitlines() if line.startswith("dlrun train"))
        words = shlex.split(command)
        assert words[-2:] == ["--config-dir", "my conf"]
        assert words[2:-3] == list(whole.ranked()[0].point.overrides)


def test_a_sweep_without_a_finished_point_ends_too(whole, monkeypatch):
    nothing = replace(until(whole, 0), importances={})
    for shown in (screen(monkeypatch)[0], PlainSweep(stream := io.StringIO(), now=Clock())):
        shown.closing(nothing)
    assert "60 waiting" in stream.getvalue()
    assert "the best trial" not in stream.getvalue()


def test_the_ranking_keeps_the_top_and_folds_what_does_not_fit(whole):
    many = replace(whole, points=tuple(replace(p, number=i) for i, p in enumerate(whole.ranked() * 2)))
    table = sweep_tables.ranking(many)
    assert len(table.rows) == sweep_tables.TOP
    assert "best 20 of 38 points" in table.title
    assert table.columns[:4] == ("rank", "point", "model", "lr")
    assert sweep_tables.ranking(many, 60).columns[:3] == ("rank", "point", "values")
    assert "lr=0.006642" in plain_table(sweep_tables.ranking(many, 60))


def test_many_failures_are_counted(whole):
    copies = replace(whole, points=tuple(replace(whole.points[5], number=i) for i in range(25)))
    lines = sweep_tables.failures(copies)
    assert len(lines) == sweep_tables.LISTED + 1
    assert lines[-1] == "and 15 more: see trials.csv"


def timed(result, seconds, ended, running=()):
    """A sweep in which ``ended`` trials took ``seconds`` each, the rest waiting or running."""
    trial = TrialResult(0, DONE, result.folder, 0.5, seconds=seconds)
    states = [DONE] * ended + ["running"] * len(running)
    states += ["waiting"] * (10 - len(states))
    points = tuple(
        PointResult(i, result.points[0].point, state, (replace(trial, status=state),)) for i, state in enumerate(states)
    )
    return replace(result, points=points, planned=10, space=replace(result.space, seeds=(0,)))


def test_the_time_left_comes_from_the_trials_that_ended_and_the_workers(whole):
    clock = Clock()
    clocks = Clocks(clock)
    start = timed(whole, 100.0, 0)
    clocks.begin(start)
    assert clocks.left(start) is None
    clocks.see({(2, 0): "", (3, 0): ""})
    clock.time = 40.0
    # Two ended, two are 40 s into their 100 s, six wait: 720 s of work for 2 workers.
    assert clocks.left(timed(whole, 100.0, 2, running=(2, 3))) == pytest.approx(360.0)
    # Five ended within 40 s, five are left: the real pace counts.
    assert clocks.left(timed(whole, 100.0, 5, running=(5, 6))) == pytest.approx(40.0)


def test_runs_that_were_there_already_say_nothing_of_the_time_left(whole):
    clocks = Clocks(Clock())
    result = timed(whole, 100.0, 3)
    clocks.begin(result)
    reused = tuple(replace(p, trials=tuple(replace(t, reused=True) for t in p.trials)) for p in result.points)
    assert clocks.left(result) == pytest.approx(350.0)
    assert clocks.left(replace(result, points=reused)) is None


def test_a_sweep_as_json(whole, capsys):
    print_json(sweep_tables.as_json(whole, ["--config-dir", "x"]))
    answer = json.loads(capsys.readouterr().out)
    assert answer["trials"] == {DONE: 36, PRUNED: 10, "diverged": 2, FAILED: 2, "running": 0, "waiting": 0}
    assert answer["best"]["number"] == whole.ranked()[0].number
    assert answer["best"]["command"].endswith("--config-dir x")
    assert len(answer["points"]) == 30
    assert sorted(p["rank"] for p in answer["points"] if p["rank"]) == list(range(1, len(whole.ranked()) + 1))
    failed = answer["points"][5]["trials"][1]
    assert (failed["status"], failed["value"]) == (FAILED, None)
    assert answer["points"][14]["trials"][0]["metrics"][METRIC] == answer["points"][14]["trials"][0]["value"]


@pytest.mark.parametrize(("term", "kind"), [("xterm", LiveSweep), ("dumb", PlainSweep)])
def test_the_screen_fits_the_stream(monkeypatch, term, kind):
    monkeypatch.setenv("TERM", term)
    assert type(make_sweep_screen(Terminal())) is kind
    assert type(make_sweep_screen(io.StringIO())) is PlainSweep
