"""How good the outputs are, in numbers people compare; plain functions, no gradients needed.

Classification functions take class indices (N,).

Shapes: N examples, C classes, D targets of a regression.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(predicted: Tensor, targets: Tensor) -> Tensor:
    """Share of examples whose predicted class (N,) is the target (N,)."""
    return (predicted == targets).float().mean()


def confusion_matrix(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Counts (C, C): row the true class, column the predicted one."""
    cells = targets * classes + predicted
    counts = torch.zeros(classes * classes, dtype=torch.long, device=targets.device)
    return counts.index_add(0, cells, torch.ones_like(cells)).view(classes, classes)


def macro_f1(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN).

    Classes that are neither predicted nor true here are left out of the mean, as scikit-learn does.
    """
    matrix = confusion_matrix(predicted, targets, classes).double()
    total = matrix.sum(0) + matrix.sum(1)  # 2 TP + FP + FN
    f1 = 2 * matrix.diagonal() / total.clamp_min(1)
    return (f1.sum() / (total > 0).sum()).float()


def auroc(scores: Tensor, targets: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that a true example scores above a false one, ties counted half.

    Args:
        scores: (N,) for two classes, or (N, C), then the mean over the classes present of each against the rest.
        targets: class indices (N,).

    Returns:
        A 0-d tensor; NaN when all examples are of one class.
    """
    if scores.dim() == 1:
        return _binary_auroc(scores, targets == 1)
    areas = torch.stack([_binary_auroc(scores[:, c], targets == c) for c in range(scores.shape[1])])
    return areas.nanmean()


def _binary_auroc(scores: Tensor, positive: Tensor) -> Tensor:
    """Mann-Whitney: (sum of the positives' mean ranks - P (P + 1) / 2) / (P * negatives)."""
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts.double() - 1) / 2)[place]
    positives = positive.sum().double()
    negatives = len(scores) - positives
    area: Tensor = ((ranks * positive).sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return area.float()


def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the targets' variance explained, 1 - sum (y - f)^2 / sum (y - mean y)^2, mean over D columns.

    A column without variance counts 1 when met exactly and 0 otherwise, as scikit-learn has it.
    """
    wanted = targets.double()
    residual = (wanted - outputs.double()).square().sum(0)
    spread = (wanted - wanted.mean(0)).square().sum(0)
    exact = (residual == 0).double()
    return torch.where(spread > 0, 1 - residual / spread.where(spread > 0, 1.0), exact).mean().float()


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of (y - f)^2 over examples and columns."""
    return (targets - outputs).square().mean()


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of |y - f| over examples and columns."""
    return (targets - outputs).abs().mean()


def psnr(outputs: Tensor, targets: Tensor, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in decibels, 10 log10(peak^2 / mean squared error), of each picture: (B,).

    A picture without any error counts as if one pixel were off by 1/255 of the peak: infinity has no mean.

    Args:
        outputs: (B, C, H, W).
        targets: (B, C, H, W).
        peak: the value of white.
    """
    error = (outputs - targets).double().square().mean((1, 2, 3))
    least = (peak / 255) ** 2 / targets[0].numel()
    ratio: Tensor = 10 * torch.log10(peak**2 / error.clamp_min(least))
    return ratio


def ssim(outputs: Tensor, targets: Tensor, peak: float = 1.0) -> Tensor:
    """Structural similarity of each picture, at most 1: (B,).

    Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 13, 2004,
    equation (13): means, variances and covariance under a Gaussian window of 11 x 11 pixels and deviation 1.5, where
    it lies wholly inside the picture; K1 = 0.01, K2 = 0.03.

    Args:
        outputs: (B, C, H, W), at least 11 x 11.
        targets: (B, C, H, W).
        peak: the value of white.
    """
    line = torch.exp(-((torch.arange(11, dtype=torch.float64, device=outputs.device) - 5) ** 2) / (2 * 1.5**2))
    line = line / line.sum()

    def seen(x: Tensor) -> Tensor:
        maps = x.double().flatten(0, 1).unsqueeze(1)  # (B, C, H, W) -> (B * C, 1, H, W)
        maps = torch.conv2d(torch.conv2d(maps, line.view(1, 1, 11, 1)), line.view(1, 1, 1, 11))
        seen_maps: Tensor = maps.unflatten(0, x.shape[:2]).squeeze(2)
        return seen_maps

    mean_x, mean_y = seen(outputs), seen(targets)
    var_x, var_y = seen(outputs.double() ** 2) - mean_x**2, seen(targets.double() ** 2) - mean_y**2
    covariance = seen(outputs.double() * targets.double()) - mean_x * mean_y
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    size = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (likeness / size).mean((1, 2, 3))
