"""What stands in the tables of ``dlrun profile``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlrun.cli.tables import Table
from dlrun.cli.text import number, short

if TYPE_CHECKING:
    from dlrun.profiling.operators import Operators, Row
    from dlrun.profiling.report import Part, Profile, Step, Verdict
    from dlrun.profiling.trials import Trials

LEAST_DETAIL = 0.005  # of a step


def tables(found: Profile) -> list[Table]:
    """What was profiled, the step, its work, the operators, and what was tried."""
    made = [_about(found), _step("a step", found.step)]
    if found.inside is not None:
        made.append(_step("the same step without the engine", found.inside))
    made += [_beside(found), _work(found), *_operators(found.operators), *_trials(found.trials)]
    return [table for table in made if table.rows]


def verdict(found: Verdict) -> list[str]:
    """The sentence, the command, and what else was found."""
    lines = [f"verdict: {found.sentence}"]
    if found.estimate is not None:
        bound = found.kind == "bound"
        how = "at most, were that gone" if bound else "by what was measured"
        lines.append(f"  the training would be {found.estimate:.2f} times as fast, {how}")
    if found.caution:
        lines.append(f"  mind: {found.caution}")
    if found.command:
        lines.append(f"  {found.command}")
    return lines + [f"also: {sentence}" for sentence in found.also]


def micro(seconds: float) -> str:
    """Microseconds."""
    value = seconds * 1e6
    return f"{value:,.0f}" if abs(value) >= 99.5 else f"{value:.1f}"


def per_cent(share: float) -> str:
    """A share, to a tenth of a per cent."""
    return f"{share:.1%}"


def _about(found: Profile) -> Table:
    about, timings = found.about, found.timings
    rows = [
        ("experiment", " ".join(f"{name}={about[name]}" for name in ("data", "model", "optimizer", "algorithm"))),
        (
            "batch",
            f"{about['batch_size']:,} examples, {about['steps_per_epoch']:,} steps an epoch, {about['placement']}",
        ),
        ("runs as", f"engine={about['engine']} precision={about['precision']}, torch {about['torch']}"),
        ("device", f"{about['device']} ({about['device_name']}), {about['threads']} threads"),
        ("measured", f"{timings.steps:,} steps in {timings.blocks} blocks, and as many in parts: {found.method}"),
    ]
    return Table("profile", ("", ""), "ll", rows)


def _step(title: str, step: Step) -> Table:
    rows = [_part(part, step) for part in step.parts]
    sums = f"the parts add up within {step.tolerance:.0%}"
    if abs(step.left_over) > step.tolerance:
        sums = f"the parts miss it by more than the {step.tolerance:.0%} that steps differ by"
    rows.append(("whole step", micro(step.seconds), "", per_cent(1.0), sums))
    return Table(title, ("part", "us", "quartiles", "share", ""), "lrrrl", rows, ("quartiles", ""))


def _part(part: Part, step: Step) -> tuple[str, ...]:
    spread = f"{micro(part.seconds.low)}-{micro(part.seconds.high)}" if part.seconds.low != part.seconds.high else ""
    heavy = sorted(part.details.items(), key=lambda item: -item[1])
    details = ", ".join(f"{name} {micro(s)}" for name, s in heavy if s >= LEAST_DETAIL * step.seconds)
    return f"{part.group} {part.name}".strip(), micro(part.seconds.middle), spread, per_cent(part.share), details


def _beside(found: Profile) -> Table:
    """What happens now and then, and once."""
    timings, step = found.timings, found.step
    examples = found.about["batch_size"] / step.seconds
    rows = [("examples a second", f"{examples:,.0f}", "")]
    if timings.evaluation:
        seconds = sum(timings.evaluation.values())
        every = f"every {found.evaluate_every:,} steps: {per_cent(found.evaluation_share)} of the training's time"
        rows.append(("an evaluation", f"{seconds * 1e3:,.1f} ms", f"{every}, without the pictures of now and then"))
    if timings.checkpoint is not None:
        rows.append(("a checkpoint", f"{timings.checkpoint * 1e3:,.1f} ms", "its share stands in the step"))
    once = f"{found.about['once']['load']:.2f} s to read the data, {timings.start:.2f} s for files and first pictures"
    rows.append(("once", f"{timings.first_step:.2f} s", f"for the first step; {once}"))
    stamped = timings.stamped.middle / timings.bare.middle - 1
    cost = f"of a step, taken off its parts; with the stamps a step took {stamped:+.1%}"
    rows.append(("cost of measuring", per_cent(timings.cost / timings.bare.middle), cost))
    return Table("beside the step", ("", "", ""), "lrl", rows)


def _work(found: Profile) -> Table:
    work, rows = found.work, list[tuple[str, ...]]()
    if work is not None and found.rate is not None:
        forward, backward = (
            sum(n for (_, of), n in work.flops.items() if of == name) for name in ("forward", "backward")
        )
        parts = f"forward {short(forward)}, backward {short(backward)}" if backward else ""
        rows.append(("operations a step", short(work.per_step), parts))
        rows.append(("operations an example", short(work.per_step / work.examples), ""))
        share = per_cent(found.rate / found.peak.flops)
        peak = f"{share} of the peak of {short(found.peak.flops)} ({found.peak.source})"
        rows.append(("operations a second", short(found.rate), peak))
        if work.uncounted:
            names = ", ".join(name for name, _ in work.uncounted)
            rows.append(("not counted", "", f"{names}: no formula; element by element they are few"))
        whole = sum(n for _, n in work.layers)
        rows += [(f"  {name}", short(n), f"{per_cent(n / whole)} of the forward pass") for name, n in work.layers[:5]]
        trained, fixed = work.parameters
        rows.append(("parameters", number(trained), f"and {fixed:,} fixed" if fixed else ""))
        sizes = {
            "weights": work.weights, "gradients": work.gradients, "optimizer": work.optimizer,
            "activations": work.activations,
        }  # fmt: skip
        rows.append(("bytes", short(sum(sizes.values())), ", ".join(f"{k} {short(v)}" for k, v in sizes.items())))
    return Table("work", ("", "", ""), "lrl", rows)


def _operators(found: Operators) -> list[Table]:
    columns, align = ("operator", "us", "calls", "share", "where"), "lrrrl"
    title = f"heaviest operators, per step, of {found.steps} under torch's profiler, which slows them"
    made = [Table(title, columns, align, [_row(row) for row in found.rows], ("where",))]
    if found.layers:
        made.append(
            Table("time by layer, forward and backward", ("layer", "us", "share"), "lrr",
                  [(row.name, micro(row.seconds), per_cent(row.share)) for row in found.layers])
        )  # fmt: skip
    if found.kernels:
        busy = f"{found.kernel_calls:,.0f} kernels a step, {micro(found.busy)} us"
        made.append(
            Table(f"heaviest kernels ({busy})", columns[:4], align[:4], [_row(row)[:4] for row in found.kernels])
        )
    return made


def _row(row: Row) -> tuple[str, ...]:
    return row.name, micro(row.seconds), f"{row.calls:.4g}", per_cent(row.share), ", ".join(row.where)


def _trials(found: Trials) -> list[Table]:
    rows = [
        (
            " ".join(trial.words),
            f"{trial.gain.middle:.2f}",
            f"{trial.gain.low:.2f}-{trial.gain.high:.2f}" if trial.gain.low != trial.gain.high else "one measurement",
            micro(trial.seconds),
            trial.caution,
        )
        for trial in found.tried
    ]
    columns = ("setting", "times as fast", "quartiles", "us a step", "")
    title = "tried in turns with the present settings, example by example"
    sources = [(str(source.workers), micro(source.seconds)) for source in found.sources]
    return [
        Table(title, columns, "lrrrl", rows, ("", "quartiles")),
        Table("data read alone, the present number of workers first", ("trainer.workers", "us a batch"), "lr", sources),
    ]
