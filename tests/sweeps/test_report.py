import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dlrun.sweeps.nouns import DONE, Axis, Point, PointResult, Settings, Space, SweepResult, TrialResult
from dlrun.sweeps.report import write_report
from dlrun.sweeps.report_charts import CURVES, Charts
from dlrun.sweeps.report_scales import LEVELS, Scale, columns, metric_colours, metric_scale, short
from sweep_cases import METRIC, SPACE, write_sweep

VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a browser would read: elements, and that each one is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def tags(self, tag, **wanted):
        return [attrs for name, attrs in self.elements if name == tag and wanted.items() <= attrs.items()]


def report(result, folder, **words):
    write_report(result, folder / "report.html", **words)
    return (folder / "report.html").read_text("utf-8")


def made(values, means, axis, seeds=(0,), folder=None):
    """A sweep of one axis that exists in memory alone."""
    points = tuple(
        PointResult(
            i, Point({axis.key: value}, (f"{axis.key}={value}",)), DONE, (TrialResult(0, DONE, folder, mean),), mean
        )
        for i, (value, mean) in enumerate(zip(values, means, strict=True))
    )
    return SweepResult("s", folder, METRIC, True, Space((), (axis,), seeds), Settings(), points)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def text(sweep):
    return report(sweep, sweep.folder, command=["dlrun", "sweep", "a=1,2"], more=["--config-dir", "<b>"])


def test_the_page_has_all_its_parts(sweep, text):
    page = Page(text)
    best = sweep.ranked()[0]
    for part in ("dlrun sweep a=1,2", f"Best point: {best.number}", "Parallel coordinates", "Slices", "Importance",
                 "Learning curves", "Failures", "71%", "--config-dir '<b>'", "trials pruned"):  # fmt: skip
        assert part in page.text
    assert [attrs["class"] for attrs in page.tags("svg")].count("slice") == len(SPACE.axes) + 1
    assert len(page.tags("tr")) == 1 + len(sweep.points)


def test_the_page_needs_nothing_but_itself(text):
    for attrs in (attrs for _, attrs in Page(text).elements):
        assert not attrs.keys() & {"src", "srcset", "action", "onclick", "onload"}
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", text)
    assert "@import" not in text
    assert "url(" not in text


def test_nothing_that_a_sweep_says_becomes_markup(tmp_path):
    evil = "</script><script>alert(1)</script>\"'&\udcff"
    axis = Axis(evil, values=(evil, "b" + evil))
    result = made([evil, "b" + evil], [0.1, 0.2], axis, folder=tmp_path / evil.replace("/", "_"))
    trial = TrialResult(0, "failed", tmp_path / "'\"><b>", error=evil)
    failed = PointResult(2, Point({evil: evil}, (evil,)), evil, (trial,))
    result = replace(result, name=evil, metric=evil, points=(*result.points, failed), importances={evil: 0.5})
    text = report(result, tmp_path, command=[evil], more=[evil])
    assert len(Page(text).tags("script")) == 1
    assert "alert(1)</script>" not in text


def test_only_the_pages_own_script_may_run(text):
    (policy,) = (a["content"] for a in Page(text).tags("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy
    assert "unsafe-eval" not in policy


def test_links_are_relative_and_lead_to_files(sweep, text):
    links = [attrs["href"] for attrs in Page(text).tags("a")]
    assert any(link.endswith("output.log") for link in links)
    for link in links:
        assert (sweep.folder / link).exists()


def test_every_point_with_a_value_is_in_the_charts_and_the_table(sweep):
    charts = Charts(sweep)
    shown = {str(point.number) for point in charts.shown}
    assert set(re.findall(r'data-p="(\d+)"', charts.parallel())) == shown
    assert set(re.findall(r'data-p="(\d+)"', charts.slices()[0])) == shown
    last = re.findall(r'<path data-p="(\d+)"', charts.parallel())[-1]
    assert int(last) == sweep.ranked()[0].number  # the best is drawn on top


def test_a_key_that_a_point_does_not_have_passes_below_the_axis(sweep):
    chart = Charts(sweep).parallel()
    assert chart.count("absent") == 2  # model.hidden and model.channels
    below = re.findall(r'd="M[^"]*,378L', chart)
    assert len(below) == len(Charts(sweep).shown)


def test_learning_curves_are_at_most_so_many_and_the_others_are_counted(sweep):
    chart, hidden, _ = Charts(sweep).curves()
    trials = sum(len(point.trials) for point in Charts(sweep).shown)
    assert (len(set(re.findall(r'<path data-p="\d+" class="[^"]*" d="[^"]*"/>', chart))), hidden) == (trials, 0)
    copies = tuple(replace(point, number=i) for i, point in enumerate(sweep.ranked() * 5))
    chart, hidden, _ = Charts(replace(sweep, points=copies)).curves()
    assert chart.count("data-p") == CURVES
    assert hidden == sum(len(point.trials) for point in copies) - CURVES


def test_a_thousand_points_stay_small(sweep, tmp_path):
    points = tuple(replace(sweep.points[i % 30], number=i) for i in range(1000))
    text = report(replace(sweep, points=points, planned=1000), tmp_path)
    assert len(text.encode()) < 2_000_000
    assert len(Page(text).tags("tr")) == 1001


@pytest.mark.parametrize("planned", [None, 4])
def test_a_sweep_with_nothing_done_has_a_page(tmp_path, planned):
    axis = Axis("optimizer.lr", low=1e-4, high=1.0, log=True)
    empty = replace(made([], [], axis, folder=tmp_path), planned=planned)
    assert "No point is done yet" in Page(report(empty, tmp_path)).text


@pytest.mark.parametrize("means", [[0.0, 0.0], [1e30, -1e30], [1e-300, 1e30], [0.5, 0.5 + 1e-16], [-1.0, -1.0]])
def test_no_values_break_the_page(tmp_path, means):
    for values, axis in (
        (["1", "1"], Axis("a", values=("1", "1"))),
        (["0", "1e300"], Axis("a", values=("0", "1e300"))),
        (["-1", "nan"], Axis("a", values=("-1", "nan"))),
        (["0.1", "0.1000001"], Axis("a", low=0.1, high=0.2, log=True)),
    ):
        text = report(made(values, means, axis, folder=tmp_path), tmp_path)
        assert "nan," not in Page(text).text
        for attrs in Page(text).tags("path"):
            assert "nan" not in attrs["d"]
            assert "inf" not in attrs["d"]


def scale_of(values, axis):
    result = made(values, range(len(values)), axis)
    (column,) = columns(result, result.points)
    return column.scale


def test_axes_choose_their_scale():
    assert scale_of(["0.001", "0.5"], Axis("a", low=1e-4, high=1.0, log=True)).kind == "log"
    assert scale_of(["0.001", "0.5"], Axis("a", low=0.0, high=1.0)).kind == "linear"
    assert scale_of(["0.001", "0.01", "1"], Axis("a", values=("0.001", "0.01", "1"))).kind == "log"
    assert scale_of(["8", "16"], Axis("a", values=("8", "16"))).ticks() == [
        (pytest.approx(0.0283, abs=1e-4), "8"),
        (pytest.approx(0.9717, abs=1e-4), "16"),
    ]
    assert scale_of(["b", "a"], Axis("a", values=("a", "b"))).names == ("a", "b")  # as swept
    assert scale_of(["10", "9"], Axis("a", group=True, values=("10", "9"))).kind == "list"
    crowded = scale_of(["100", "0", "0.001"], Axis("a", values=("100", "0", "0.001")))
    assert (crowded.kind, crowded.names) == ("list", ("0", "0.001", "100"))


def test_what_is_the_same_everywhere_is_no_axis():
    result = made(["1", "1"], [0.1, 0.2], Axis("a", values=("1",)))
    assert columns(result, result.points) == []


@pytest.mark.parametrize(
    ("scale", "labels"),
    [
        (Scale("linear", 0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Scale("linear", 0.88, 0.93), ["0.88", "0.89", "0.9", "0.91", "0.92", "0.93"]),
        (Scale("linear", -30.0, 12000.0), ["0", "5000", "10k"]),
        (Scale("log", 9e-6, 2e-1), ["1e-5", "0.0001", "0.001", "0.01", "0.1"]),
        (Scale("log", 0.9, 12.0), ["1", "2", "5", "10"]),
        (Scale("log", 1.2, 1.4), ["1.2", "1.25", "1.3", "1.35", "1.4"]),
    ],
)
def test_ticks_are_round_numbers(scale, labels):
    assert [label for _, label in scale.ticks()] == labels
    places = [place for place, _ in scale.ticks()]
    assert places == sorted(places)
    assert min(places) >= -1e-6
    assert max(places) <= 1 + 1e-6


def test_numbers_on_ticks_are_short():
    assert [short(x) for x in (0.0, 1e-7, 0.25, 1234.0, 25_000.0, 3e6, 1e13)] == [
        "0", "1e-7", "0.25", "1234", "25k", "3M", "1e13",
    ]  # fmt: skip


def test_one_very_bad_value_does_not_squeeze_the_others():
    values = [0.90 + 0.005 * i for i in range(12)]
    wide = metric_scale([*values, -40.0], higher_is_better=True)
    assert wide.low > 0.6
    assert wide.place(-40.0) == 0.0
    losses = metric_scale([1.0 + 0.01 * i for i in range(12)] + [60.0], higher_is_better=False)
    assert losses.high < 2
    assert metric_scale([0.01, 5.0], higher_is_better=False).kind == "log"


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_has_the_last_colour(higher):
    values = [float(i) for i in range(20)]
    colours = metric_colours(values, higher)
    best, worst = (19.0, 0.0) if higher else (0.0, 19.0)
    assert (colours.level(best), colours.level(worst)) == (LEVELS - 1, 0)
    assert metric_colours([2.0], higher).level(2.0) == LEVELS - 1
    assert math.isfinite(metric_colours([], higher).level(0.5))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_the_script(sweep, text, tmp_path):
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    page = (sweep.folder / "report.html").as_uri()
    shown = subprocess.run(
        ["chromium", *words, f"--user-data-dir={tmp_path}", "--virtual-time-budget=1000", "--dump-dom", page],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    rows = re.findall(r'<tr data-p="\d+"(?: class="(more)?")?', shown)
    assert (len(rows), rows.count("more")) == (30, 15)
    assert "Show all 30 points" in shown
    assert shown.count('class="column brushable"') + shown.count('class="column  brushable"') == len(SPACE.axes)
