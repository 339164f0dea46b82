"""report.html: a sweep on one page that needs nothing but itself, neither a network nor a server.

Charts and tables are written out here; report.js only adds sorting, highlighting and ranges, and may be missing. The
page's policy lets no other script run and loads nothing, whatever a label or an error message contains.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from html import escape
from pathlib import Path
from urllib.parse import quote

from dlrun.sweeps.nouns import DIVERGED, DONE, FAILED, PRUNED, PointResult, SweepResult, TrialResult
from dlrun.sweeps.report_charts import Charts, worth
from dlrun.sweeps.report_scales import DARK, LEVELS, LIGHT
from dlrun.sweeps.results import OUTPUT, RUNNING, WAITING, axis_keys, best_trial, command_of, counts
from dlrun.tracking.durable import replace

_FAR = " Values far from all others stand at the edge."
_FIRST = 15  # rows of the table before all are asked for
_MANY = 300  # points from which lines and dots are drawn finer
_LINKS = 6  # trials named with one failure; the rest are counted


def write_report(result: SweepResult, path: Path, *, command: Sequence[str] = (), more: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        result: the sweep.
        path: the file, in the folder that links to the runs are relative to.
        command: the sweep's own words, shown below the title.
        more: words that every ``dlrun train`` of the sweep needs, such as ``--config-dir DIR``.

    Raises:
        StorageError: the disk refuses.
    """
    replace(path, [_page(result, path.parent, command, more).encode(errors="backslashreplace")])


def figures(value: float) -> str:
    """A number in four figures."""
    return f"{value:.4f}" if 0.01 <= abs(value) < 10 else f"{value:.4g}"


def _page(result: SweepResult, folder: Path, command: Sequence[str], more: Sequence[str]) -> str:
    here = Path(__file__)
    script, style = here.with_suffix(".js").read_text("utf-8"), here.with_suffix(".css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    charts = Charts(result)
    many = "many" if len(charts.shown) > _MANY else ""
    sections = [
        *_head(result, command),
        *_best(result, folder, more),
        *_table(result, charts),
        *_parallel(charts),
        *_progress_and_importances(result, charts),
        *_slices(charts),
        *_curves(charts),
        *_failures(result, folder),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(result.name)}</title><style>{style}{_colours()}</style></head>\n<body class='{many}'>"
        + "\n".join(sections)
        + f'\n<div id="tip" hidden></div>\n<script>{script}</script></body></html>\n'
    )


def _head(result: SweepResult, command: Sequence[str]) -> Iterator[str]:
    trials, settings = counts(result), result.settings
    yield f"<header><h1>{escape(result.name)}</h1>"
    if command:
        yield f'<p class="command"><code>{escape(" ".join(command))}</code></p>'
    better = "higher is better" if result.higher_is_better else "lower is better"
    pruner = "" if settings.pruner == "none" else f", pruned by {settings.pruner}"
    planned = max(result.planned or 0, len(result.points))
    facts = [
        (result.metric, better, ""),
        (str(planned), f"points by {settings.sampler}{pruner}", ""),
        (str(len(result.space.seeds)), "seeds per point", ""),
        (str(trials[DONE]), "trials done", ""),
        *((str(trials[word]), f"trials {word}", "") for word in (PRUNED, RUNNING, WAITING) if trials[word]),
        *((str(trials[word]), f"trials {word}", "bad") for word in (FAILED, DIVERGED) if trials[word]),
        (_clock(result.seconds), f"on {settings.workers} workers" if settings.workers > 1 else "on one worker", ""),
    ]
    cells = (
        f'<div class="{kind}"><b>{escape(text)}</b><span>{escape(what)}</span></div>' for text, what, kind in facts
    )
    yield f'<div class="facts">{"".join(cells)}</div></header>'


def _best(result: SweepResult, folder: Path, more: Sequence[str]) -> Iterator[str]:
    found = best_trial(result)
    if found is None:
        yield '<section class="card"><h2>Best point</h2><p class="hint">No point is done yet.</p></section>'
        return
    point, trial = found
    done = sum(one.status == DONE for one in point.trials)
    error = "" if point.error is None else f" \u00b1 {_beside(point.error)} standard error, mean of {done} seeds"
    values = point.point.values.items()
    chips = "".join(f"<span><i>{escape(key)}</i> {escape(value)}</span>" for key, value in values)
    yield (
        f'<section class="card best"><h2>Best point: {point.number}</h2>'
        f'<p class="value">{figures(point.mean or 0.0)} <small>{escape(result.metric)}{error}</small></p>'
        f'<div class="chips">{chips}</div>'
        f'<div class="shell"><pre>{escape(command_of(point.point, trial.seed, more))}</pre>'
        f'<button class="copy" type="button">Copy</button></div>'
        f'<p class="hint">Its best trial ran under seed {trial.seed}: {_link(trial.folder, folder)}</p></section>'
    )


def _table(result: SweepResult, charts: Charts) -> Iterator[str]:
    keys = axis_keys(result)
    heads = [("rank", "r"), ("point", "r"), (result.metric, "r mean"), ("\u00b1", "r"), ("n", "r")]
    heads += [*((key, "") for key in keys), ("state", ""), ("time", "r")]
    row = "".join(
        f'<th class="{kind}" scope="col" title="{escape(text)}"><button>{escape(text)}</button></th>'
        for text, kind in heads
    )
    ranked = result.ranked()
    places = {point.number: place for place, point in enumerate(ranked, 1)}
    rest = [point for point in result.points if point.number not in places]
    rows = "".join(_row(point, places.get(point.number), keys, charts) for point in [*ranked, *rest])
    yield (
        '<section class="card table"><h2>Points</h2>'
        '<p class="hint">Ranked by the mean over the seeds that are done; \u00b1 is the standard error of the mean, '
        "n the number of seeds. A click on a heading sorts.</p>"
        f'<div class="scroll"><table id="points" data-first="{_FIRST}"><thead><tr>{row}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><button class="all" type="button" hidden></button></section>'
    )


def _row(point: PointResult, place: int | None, keys: Sequence[str], charts: Charts) -> str:
    value = worth(point)
    done = sum(trial.status == DONE for trial in point.trials)
    seconds = [trial.seconds for trial in point.trials if trial.seconds is not None]
    cells = [f'<td class="r">{place or ""}</td>', f'<td class="r">{point.number}</td>']
    shown = "" if value is None else figures(value)
    dot = f'<i class="dot {charts.level(point)}"></i>' if value is not None else ""
    cells.append(f'<td class="r mean {"pruned" if point.mean is None else ""}" data-v="{shown}">{dot}{shown}</td>')
    cells.append(f'<td class="r">{"" if point.error is None else _beside(point.error)}</td>')
    cells.append(f'<td class="r">{done or ""}</td>')
    cells += [_value_cell(point.point.values.get(key)) for key in keys]
    cells.append(f'<td class="{escape(point.state)}">{escape(point.state)}</td>')
    cells.append(f'<td class="r" data-v="{sum(seconds):.1f}">{_clock(sum(seconds))}</td>' if seconds else "<td></td>")
    return f'<tr data-p="{point.number}">{"".join(cells)}</tr>'


def _value_cell(text: str | None) -> str:
    """A swept value; long numbers are shortened and sort as what they are."""
    if text is None:
        return '<td class="none">\u2013</td>'
    try:
        short = f"{float(text):.4g}" if len(text) > 7 else text
    except ValueError:
        short = text
    return f"<td>{escape(text)}</td>" if short == text else f'<td data-v="{escape(text)}">{short}</td>'


def _parallel(charts: Charts) -> Iterator[str]:
    chart = charts.parallel()
    if chart:
        least = chart.partition('viewBox="0 0 ')[2].partition(" ")[0]
        yield (
            '<section class="card"><h2>Parallel coordinates</h2>'
            '<p class="hint">One line per point. Rest on a line for its values; draw along an axis to keep only the '
            f'points that pass there.</p><div class="scroll" style="--least:{int(int(least) * 0.8)}px">{chart}</div>'
            f"{_legend(charts)}</section>"
        )


def _legend(charts: Charts) -> str:
    boxes = "".join(f'<i class="k{level}"></i>' for level in range(LEVELS))
    pruned = any(point.mean is None for point in charts.shown)
    more = ' <i class="dot off"></i> pruned, at its last value' if pruned else ""
    worst, best = figures(charts.colours.worst), figures(charts.colours.best)
    return f'<p class="scale">{worst} or worse <span>{boxes}</span> {best}{more}</p>'


def _progress_and_importances(result: SweepResult, charts: Charts) -> Iterator[str]:
    cards = []
    if chart := charts.progress():
        hint = "The value of each point in the order of trying; the line is the best so far."
        cards.append(f'<section class="card"><h2>Progress</h2><p class="hint">{hint}</p>{chart}</section>')
    if result.importances:
        bars = "".join(
            f"<span>{escape(key)}</span><div><div style='width:{100 * min(max(share, 0.0), 1.0):.1f}%'></div></div>"
            f"<em>{share:.0%}</em>"
            for key, share in sorted(result.importances.items(), key=lambda pair: -pair[1])
        )
        hint = f"The share of the variance of {escape(result.metric)} that each key explains."
        bars = f'<div class="bars">{bars}</div>'
        cards.append(f'<section class="card"><h2>Importance</h2><p class="hint">{hint}</p>{bars}</section>')
    if cards:
        yield f'<div class="{"two" if len(cards) == 2 else "one"}">{"".join(cards)}</div>'


def _slices(charts: Charts) -> Iterator[str]:
    drawn = charts.slices()
    if drawn:
        far = _FAR if charts.beyond else ""
        yield (
            '<section class="card"><h2>Slices</h2><p class="hint">The metric against each key, one dot per trial; '
            f"a bar is the mean of the points that are done.{far}</p>"
            f'<div class="slices">{"".join(drawn)}</div></section>'
        )


def _curves(charts: Charts) -> Iterator[str]:
    chart, hidden, beyond = charts.curves()
    if chart:
        far = _FAR if beyond else ""
        more = f" {hidden:,} others, middling and worse, are not drawn." if hidden else ""
        yield (
            '<section class="card"><h2>Learning curves</h2><p class="hint">One line per trial in the colour of its '
            f"point, the best on top; a cross is where a trial was pruned.{far}{more}</p>"
            f'<div class="scroll">{chart}</div></section>'
        )


def _failures(result: SweepResult, folder: Path) -> Iterator[str]:
    by_sentence: dict[str, list[tuple[PointResult, TrialResult]]] = {}
    for point in result.points:
        for trial in point.trials:
            if trial.status in (FAILED, DIVERGED):
                by_sentence.setdefault(trial.error or trial.status, []).append((point, trial))
    if not by_sentence:
        return
    items = []
    for sentence, trials in sorted(by_sentence.items(), key=lambda pair: -len(pair[1])):
        named = []
        for point, trial in trials[:_LINKS]:
            log = f", {_link(trial.folder / OUTPUT, folder)}" if (trial.folder / OUTPUT).is_file() else ""
            named.append(f"point {point.number} seed {trial.seed}: {_link(trial.folder, folder)}{log}")
        more = f"; and {len(trials) - _LINKS} more (trials.csv)" if len(trials) > _LINKS else ""
        where = "; ".join(named) + more
        items.append(f'<li><p class="{trials[0][1].status}">{escape(sentence)}</p><p class="where">{where}</p></li>')
    yield f'<section class="card"><h2>Failures</h2><ul class="fails">{"".join(items)}</ul></section>'


def _link(target: Path, folder: Path) -> str:
    """A link that still holds when the whole sweep is moved."""
    relative = Path(os.path.relpath(target, folder)).as_posix()
    return f'<a href="{escape(quote(os.fsencode(relative)))}">{escape(relative)}</a>'


def _beside(error: float) -> str:
    return f"{error:.4f}" if 0.001 <= error < 1 else f"{error:.2g}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _colours() -> str:
    def rules(colours: Sequence[str]) -> str:
        return "".join(
            f".lines .k{i}{{stroke:{c}}}circle.k{i}{{fill:{c}}}i.k{i}{{background:{c}}}" for i, c in enumerate(colours)
        )

    return f"{rules(LIGHT)}@media screen and (prefers-color-scheme: dark){{{rules(DARK)}}}"
