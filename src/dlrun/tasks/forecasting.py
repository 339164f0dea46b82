"""Forecasting: the next H rows of a series from the L rows before.

Shape legend: B windows of a batch, L rows looked back on, H rows ahead, F columns of the inputs, of which the first D
are the targets, M rows of a season.

Inputs, outputs, loss and metrics are in the training part's standardised units, as the literature reports them (Zhou et
al., "Informer", AAAI 2021); predictions are in the data's own. Two naive forecasts stand beside the network: the last
value repeated, and the last season repeated (Hyndman, Athanasopoulos, "Forecasting: Principles and Practice", 3rd ed.,
section 5.2). The one with the smaller squared error on the training part is the baseline, so that the choice has not
seen what it is measured on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import Loss
from dlrun.tasks import Batch, Logs, Measured, Monitor, Network, Source, check_loss, made_up_inputs

CLEAR = 0.3  # autocorrelation from which a season is one; white noise of 100 rows stays below 0.2
RISE = 0.1  # of a peak over the lowest value before it: a bump on the way down is no season
NEARLY = 0.9  # of the highest peak: the shortest season of those, not a multiple of it
WINDOWS = 1000  # of the training part, on which the naive forecasts are compared


class Forecasting:
    """Outputs (B, H, D), or as many numbers in another shape, against the rows that came.

    Args:
        loss: a loss between numbers.
        facts: of the series.
        season: rows of a season for the naive forecast; ``auto`` finds it in the training part, 1 is none.

    Raises:
        ConfigError: the data are no series, the loss is not one between numbers, or the season cannot be seen.
    """

    name: ClassVar[str] = "forecasting"
    pixels: ClassVar[str] = "standard"
    requires: ClassVar[tuple[str, ...]] = ()
    usual_loss: ClassVar[str] = "MeanSquaredError"
    per_step: ClassVar[bool] = False
    answers: ClassVar[str] = "rows"

    def __init__(self, loss: Loss, facts: Facts, season: int | str = "auto") -> None:
        if facts.kind != "series":
            raise ConfigError(
                f"task=forecasting needs a series, and '{facts.name}' is none; use data=series data.path=FILE.csv"
            )
        check_loss(loss, self.name, facts)
        if season != "auto" and (not isinstance(season, int) or not 1 <= season <= facts.input_shape[0]):
            raise ConfigError(
                f"task.season={season} must be auto, or from 1 (none) to the {facts.input_shape[0]} rows looked back on"
            )
        self.loss_function, self.facts, self.wanted_season = loss, facts, season
        self.season = 1
        self.monitor = Monitor("mse", higher_is_better=False)

    def out_shape(self) -> tuple[int, ...]:
        """(H, D)."""
        return self.facts.target_shape

    def metric_names(self) -> tuple[str, ...]:
        """Squared and absolute error; for a single target the symmetric percentage error in its own units too."""
        return ("loss", "mse", "mae", "smape") if self.facts.num_targets == 1 else ("loss", "mse", "mae")

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        horizon, targets = self.facts.target_shape
        names = ", ".join(self.facts.targets[:8]) + (", ..." if targets > 8 else "")
        return f"{horizon} x {targets} units, identity", f"{horizon} rows ahead of: {names}"

    def naive(self) -> str:
        """The baseline in words."""
        return "last value repeated" if self.season == 1 else f"last season of {self.season} rows repeated"

    def example(self) -> Batch:
        """Two windows of zeros."""
        return made_up_inputs(self.facts), torch.zeros(2, *self.facts.target_shape)

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Find the season in the training part's values (N, F), and keep it where repeating it is the better way."""
        length, (horizon, columns) = self.facts.input_shape[0], self.facts.target_shape
        values = targets[:, :columns].float()
        season = self.wanted_season
        found = find_season(values, length) if not isinstance(season, int) else season
        windows = values.unfold(0, length + horizon, 1).transpose(1, 2)  # (M, L + H, D), a view
        some = windows[:: max(1, len(windows) // WINDOWS)]
        past, ahead = some[:, :length], some[:, length:]
        better = (repeated(past, found, horizon) - ahead).square().mean() < (
            repeated(past, 1, horizon) - ahead
        ).square().mean()
        self.season = found if bool(better) else 1

    def loss(self, model: Network, batch: Batch) -> tuple[Tensor, Logs]:
        """Forward pass and loss of a batch."""
        inputs, targets = batch
        loss = self.loss_function(model(inputs).reshape(targets.shape), targets)
        return loss, {"loss": loss.detach()}

    def forecast(self, outputs: Tensor) -> Tensor:
        """Outputs as (B, H, D) float64 in the data's own units."""
        return self.own_units(outputs.reshape(-1, *self.facts.target_shape))

    def own_units(self, values: Tensor) -> Tensor:
        """Standardised values (..., D) of the targets as float64 in the data's own units."""
        scales = torch.tensor(self.facts.target_scales, dtype=torch.float64, device=values.device)  # (D, 2)
        return values.double() * scales[:, 1] + scales[:, 0]

    def baseline(self, inputs: Tensor) -> Tensor:
        """The naive forecast (B, H, D) of windows (B, L, F)."""
        horizon, columns = self.facts.target_shape
        return repeated(inputs[..., :columns], self.season, horizon)

    def measure(self, model: Network, batches: Iterable[Batch], split: str) -> Measured:
        """Loss and errors over all windows of a part, beside the naive forecast's.

        Sums alone are kept: a part's forecasts are H times as many numbers as the part itself.
        """
        network: Logs = {}
        naive: Logs = {}
        count = 0
        for inputs, targets in batches:
            outputs = model(inputs).float().reshape(targets.shape)
            loss = {"loss": self.loss_function(outputs, targets) * len(targets)}
            _add(network, loss | self._errors(outputs, targets))
            _add(naive, self._errors(self.baseline(inputs), targets))
            count += len(targets)
        return Measured({k: v / count for k, v in network.items()}, {k: v / count for k, v in naive.items()})

    def _errors(self, outputs: Tensor, targets: Tensor) -> Logs:
        """Errors of a batch, each a mean over rows and columns summed over the windows."""
        wrong = (outputs - targets).double()
        found = {"mse": wrong.square().mean((1, 2)).sum(), "mae": wrong.abs().mean((1, 2)).sum()}
        if self.facts.num_targets == 1:
            predicted, true = self.own_units(outputs), self.own_units(targets)
            found["smape"] = smape(predicted, true).mean((1, 2)).sum()
        return found

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        """H rows for each window: how many steps ahead, and each target in its own units."""
        names = self.facts.targets
        return [
            [{"step": h} | dict(zip(names, row, strict=True)) for h, row in enumerate(window, start=1)]
            for window in self.forecast(outputs).tolist()
        ]

    def state(self) -> dict[str, Any]:
        """The season of the baseline, 1 for none."""
        return {"season": self.season}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the season of a checkpoint."""
        self.season = int(state["season"])


def repeated(past: Tensor, season: int, horizon: int) -> Tensor:
    """The last ``season`` rows of (B, L, D) over and over, as (B, H, D); with a season of 1 the last value."""
    place = past.shape[1] - season + torch.arange(horizon, device=past.device) % season
    return past[:, place]


def smape(predicted: Tensor, true: Tensor) -> Tensor:
    """200 |y - f| / (|y| + |f|) in percent, element by element; 0 where both are 0 (Makridakis, Hibon 2000, M3)."""
    size = predicted.abs() + true.abs()
    return 200 * (predicted - true).abs() / torch.where(size > 0, size, 1)


def find_season(values: Tensor, longest: int) -> int:
    """Rows of the clearest season of (N, D) that fits into ``longest``; 1 when there is none.

    The season is the lag at which the autocorrelation, averaged over the columns, has its highest peak after a straight
    line is taken off; of nearly equal peaks the shortest, since a multiple of a season is as good. Of a season the
    series holds at least two.
    """
    n = len(values)
    longest = min(longest, n // 2)
    line = torch.linspace(-1, 1, n, device=values.device, dtype=torch.float64)[:, None]
    centred = values.double() - values.double().mean(0)
    centred = centred - line * (line * centred).sum(0) / line.square().sum().clamp_min(1e-12)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0)  # padded with as many zeros: products do not wrap round
    products = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[: longest + 2]  # (lags, D)
    if len(products) < 4:
        return 1
    pairs = n - torch.arange(len(products), device=values.device)[:, None]
    share = products / pairs * n / products[0].clamp_min(1e-12)
    correlation = share.mean(1)
    inner = correlation[1:-1]  # lags 1 to longest
    peak = (inner > correlation[:-2]) & (inner >= correlation[2:]) & (inner > CLEAR)
    peak &= inner - inner.cummin(0).values > RISE
    if not bool(peak.any()):
        return 1
    high = peak & (inner >= NEARLY * inner[peak].max())
    return int(high.nonzero()[0]) + 1


def _add(sums: Logs, terms: Logs) -> None:
    for key, value in terms.items():
        sums[key] = sums[key] + value if key in sums else value
