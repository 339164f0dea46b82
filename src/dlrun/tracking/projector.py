"""TensorBoard's projector: the codes of some examples as points, with their classes and their pictures.

Legend: N examples, K values of a code, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlrun.tracking.observing import observing

if TYPE_CHECKING:
    from dlrun.training.trainer import Trainer

EXAMPLES = 500
CONFIG, CODES, LABELS, SPRITE = "projector_config.pbtxt", "tensors.tsv", "metadata.tsv", "sprite.png"
LARGEST = 8192  # pixels of a sprite's side that browsers take


def write_codes(folder: Path, trainer: Trainer) -> None:
    """Write the codes of the validation part's first 500 examples (else the training part's), if the model has any.

    Raises:
        OSError: the disk refuses.
    """
    model: Any = trainer.model
    if not hasattr(model, "encode"):
        return
    codes, inputs, targets = [], [], []
    with observing(model, next(model.parameters()).device):
        for x, y in (trainer.val or trainer.train).in_order():
            codes.append(model.encode(x))
            inputs.append(x)
            targets.append(y)
            if sum(map(len, codes)) >= EXAMPLES:
                break
    points, classes = torch.cat(codes)[:EXAMPLES], trainer.facts.classes
    numbers = torch.cat(targets).tolist() if classes else range(len(points))
    labels = [classes[number] if classes else str(number) for number in numbers[: len(points)]]
    pictures = torch.cat(inputs)[:EXAMPLES] if trainer.facts.kind == "image" else None
    write(folder, points, labels, pictures)


def write(folder: Path, codes: Tensor, labels: Sequence[str], images: Tensor | None = None) -> None:
    """Write what the projector reads beside the event files of a run.

    Args:
        folder: the event files' folder, which is made if missing.
        codes: (N, K).
        labels: N names.
        images: (N, C, H, W), or None where the examples are no pictures; their range is stretched to black..white.

    Raises:
        OSError: the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = ("\t".join(f"{value:.6g}" for value in code) for code in codes.float().cpu().tolist())
    (folder / CODES).write_text("\n".join(rows) + "\n", encoding="utf-8")
    names = [" ".join(label.split()) or "-" for label in labels]  # a tab or an end of line would be a new cell
    (folder / LABELS).write_text("\n".join(names) + "\n", encoding="utf-8")
    lines = ['  tensor_name: "codes"', f'  tensor_path: "{CODES}"', f'  metadata_path: "{LABELS}"']
    side = math.ceil(math.sqrt(len(codes)))
    if images is not None and side * max(images.shape[2:]) <= LARGEST:
        _write_sprite(folder / SPRITE, images, side)
        height, width = images.shape[2:]
        sizes = f"single_image_dim: {width} single_image_dim: {height}"
        lines.append(f'  sprite {{ image_path: "{SPRITE}" {sizes} }}')
    (folder / CONFIG).write_text("\n".join(["embeddings {", *lines, "}", ""]), encoding="utf-8")


def _write_sprite(path: Path, images: Tensor, side: int) -> None:
    """One square picture with all images, row by row."""
    from PIL import Image

    x = images.detach().float().cpu()
    x = x if x.shape[1] == 3 else x[:, :1].expand(-1, 3, -1, -1)
    low, high = x.amin(), x.amax()
    x = ((torch.nan_to_num(x) - low) / (high - low).clamp_min(1e-8) * 255).round().byte()
    height, width = x.shape[2:]
    whole = torch.zeros(side * side, height, width, 3, dtype=torch.uint8)
    whole[: len(x)] = x.permute(0, 2, 3, 1)
    grid = whole.view(side, side, height, width, 3).transpose(1, 2).reshape(side * height, side * width, 3)
    Image.fromarray(grid.contiguous().numpy()).save(path)
