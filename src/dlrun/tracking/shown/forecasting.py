"""What a forecast shows: windows of the validation part with what came, the network's forecast and the naive one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlrun.tracking.canvas import BLUE, INK, MUTED, ORANGE, Axes, Colour, blank, fitted, font, tiles
from dlrun.tracking.observing import observing

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from dlrun.tracking.gallery import Draw, Gallery

SCALE = 2
PANEL = (430, 250)
HEADER = 34
PANELS = 6
PAST = 1  # times the rows ahead, of the rows before
NAMES: tuple[tuple[str, Colour], ...] = (("series", INK), ("forecast", BLUE), ("naive", ORANGE))


def drawings(look: Gallery) -> dict[str, Draw]:
    """One picture of up to six panels."""
    return {"pictures/forecasts": lambda: forecasts(look)}


def forecasts(look: Gallery) -> Image:
    """The first and the last window of the sample for up to three targets; four windows for a single target."""
    from PIL.Image import Resampling

    task, facts = look.task, look.facts
    last = len(look.inputs) - 1
    columns = min(facts.num_targets, PANELS // 2)
    wanted = (0, last) if columns > 1 else (0, last // 3, 2 * last // 3, last)
    chosen = sorted(set(wanted))
    inputs, truth = look.inputs[chosen].to(look.device), look.targets[chosen].to(look.device)
    with observing(look.model, look.device):
        outputs = look.model(inputs).float()
    past = task.own_units(inputs[:, -PAST * facts.target_shape[0] :, : facts.num_targets])
    lines = [past, task.own_units(truth), task.forecast(outputs), task.own_units(task.baseline(inputs))]
    past, truth, network, naive = (values.float().cpu() for values in lines)
    panels = [
        _panel(past[i, :, c], truth[i, :, c], network[i, :, c], naive[i, :, c], f"{facts.targets[c]}, window {row}")
        for i, row in enumerate(chosen)
        for c in range(columns)
    ]
    image, pen = tiles(panels, columns if columns > 1 else 2, 0, HEADER * SCALE)
    _legend(pen, task.naive())
    return image.resize((image.width // SCALE, image.height // SCALE), Resampling.BOX)


def _panel(past: Tensor, truth: Tensor, network: Tensor, naive: Tensor, title: str) -> Image:
    width, height = PANEL
    image, pen = blank(width * SCALE, height * SCALE)
    known = torch.cat([past, truth])
    shown = torch.cat([known, naive, network[torch.isfinite(network)]])
    spread = float(known.max() - known.min()) or 1.0  # a network that has not learnt yet may be anywhere
    low = max(float(shown.min()), float(known.min()) - spread)
    high = min(float(shown.max()), float(known.max()) + spread)
    margin = 0.05 * (high - low) or 1.0
    box = (58 * SCALE, 30 * SCALE, (width - 14) * SCALE, (height - 30) * SCALE)
    axes = Axes(*box, (float(1 - len(past)), float(len(truth))), (low - margin, high + margin))
    axes.draw(pen, 11 * SCALE)
    now = axes.x(0)
    pen.line([(now, axes.top), (now, axes.bottom)], fill=MUTED, width=SCALE)
    _line(pen, axes, known, 1 - len(past), INK)
    for values, colour in ((naive, ORANGE), (network, BLUE)):
        _line(pen, axes, torch.cat([past[-1:], values]), 0, colour)
    pen.text((axes.left, 15 * SCALE), fitted(title, axes.right - axes.left, 13 * SCALE), INK, font(13 * SCALE), "lm")
    return image


def _line(pen: ImageDraw, axes: Axes, values: Tensor, start: int, colour: Colour) -> None:
    low, high = axes.y_range
    steps = range(start, start + len(values))
    inside = values.clamp(low, high).tolist()
    points = [(axes.x(step), axes.y(value)) for step, value in zip(steps, inside, strict=True)]
    pen.line(points, fill=colour, width=3 * SCALE // 2, joint="curve")


def _legend(pen: ImageDraw, naive: str) -> None:
    left: float = 14 * SCALE
    for name, colour in NAMES:
        text = naive if name == "naive" else name
        pen.rectangle((left, (HEADER / 2 - 1.5) * SCALE, left + 18 * SCALE, (HEADER / 2 + 1.5) * SCALE), fill=colour)
        pen.text((left + 24 * SCALE, HEADER * SCALE / 2), text, fill=INK, font=font(13 * SCALE), anchor="lm")
        left += 48 * SCALE + font(13 * SCALE).getlength(text)
