"""What stands in each table a person sees: the experiment, the network, an evaluation, the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dlrun.cli.tables import Table
from dlrun.cli.text import number, shape, short

if TYPE_CHECKING:
    from dlrun.models.summary import Row
    from dlrun.run import Description
    from dlrun.tasks import Evaluation

HEAD, TAIL = 14, 9  # layers shown of a network too deep for one screen


def experiment(description: Description) -> Table:
    """What was chosen, and why where dlrun chose it."""
    rows = [(what, chosen, why) for what, chosen, why in description.choices]
    return Table("experiment", ("", "", ""), "lll", rows)


def network(layers: Sequence[Row], *, whole: bool) -> Table:
    """A line per layer and the sums; the middle of a very deep network is left out unless ``whole``."""
    lines = [
        (r.name, r.kind, shape(r.input_shape), shape(r.output_shape), number(r.parameters), short(r.multiply_adds))
        for r in layers
    ]
    hidden = len(lines) - HEAD - TAIL
    if not whole and hidden > 1:
        lines[HEAD:-TAIL] = [("...", f"{hidden} more layers: dlrun show prints them", "", "", "", "")]
    parameters, operations = sum(r.parameters for r in layers), sum(r.multiply_adds for r in layers)
    lines.append(("all", "", "", "", number(parameters), short(operations)))
    return Table(
        "network", ("name", "layer", "input", "output", "parameters", "multiply-adds"), "llllrr", lines, ("input",)
    )


def closing(title: str, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> Table:
    """Each metric beside the naive prediction's."""
    rows = [(name, number(float(value)), number(beside(name, baseline))) for name, value in metrics.items()]
    if any(naive for _, _, naive in rows):
        return Table(title, ("metric", "value", "baseline"), "lrr", rows)
    return Table(title, ("metric", "value"), "lr", [row[:2] for row in rows])


def beside(name: str, baseline: Mapping[str, float]) -> float | None:
    """The baseline of metric ``test/accuracy``, whether it is filed under that name or under ``accuracy``."""
    value = baseline.get(name, baseline.get(name.rpartition("/")[2]))
    return None if value is None else float(value)


def leading(metrics: Mapping[str, float]) -> str | None:
    """The metric to name first: of the test part before the validation part, and a loss only where nothing else is."""
    parts = ["test", "val"]
    ranked = sorted(
        metrics, key=lambda n: (n.endswith("loss"), parts.index(p) if (p := n.partition("/")[0]) in parts else 2)
    )
    return ranked[0] if ranked else None


def headline(values: Mapping[str, float]) -> list[str]:
    """The names shown beside the bar: the training loss and the first validation metric."""
    measured = leading({name: value for name, value in values.items() if name.startswith("val/")})
    return [name for name in ("train/loss", measured) if name is not None and name in values]


def things(description: Description) -> str:
    """What the examples of an experiment are, where they have a better name."""
    return "images" if description.facts.kind == "image" else "examples"


def stream(values: Mapping[str, float], examples: str) -> list[str]:
    """Of data that is read while it trains: how much of it a second, and how long the training waited for it."""
    if "data_wait" not in values:
        return []
    return [f"{values['examples_per_second']:,.0f} {examples}/s", f"waiting for data {values['data_wait']:.0%}"]


def evaluation_cells(
    evaluation: Evaluation, baseline: Mapping[str, float], train_loss: float | None
) -> list[tuple[str, str]]:
    """The (heading, value) pairs of one evaluation's line."""
    cells = [
        ("step", number(evaluation.step)),
        ("epoch", f"{evaluation.epoch:.1f}"),
        ("train/loss", "-" if train_loss is None else number(float(train_loss))),
    ]
    cells += [(f"{evaluation.split}/{name}", number(float(value))) for name, value in evaluation.metrics.items()]
    name = leading(evaluation.metrics)
    naive = beside(f"{evaluation.split}/{name}", baseline) if name else None
    return cells if naive is None else [*cells, (f"baseline {name}", number(naive))]
