"""The best linear code: equal to the singular value decomposition's, also where it is streamed or iterated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dlrun.tasks import principal_components
from dlrun.tasks.principal_components import PrincipalComponents

N, F = 300, 12


def examples(count: int = N, width: int = F) -> Tensor:
    """Correlated values far from zero, where single precision loses most."""
    source = torch.Generator().manual_seed(0)
    spread = torch.linspace(3, 0.1, width)
    mixing = torch.randn(width, width, generator=source)
    return torch.randn(count, width, generator=source) * spread @ mixing + 50


def batches_of(x: Tensor, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    return ((part, torch.zeros(len(part))) for part in x.split(size))


def fitted(x: Tensor) -> PrincipalComponents:
    components = PrincipalComponents()
    components.fit(len(x), lambda: batches_of(x))
    return components


@pytest.mark.parametrize("rows", [1, 100, 10_000])
@pytest.mark.parametrize("count", [1, 5, F])
def test_the_errors_are_those_of_the_singular_vectors(monkeypatch: pytest.MonkeyPatch, rows: int, count: int) -> None:
    monkeypatch.setattr(principal_components, "ROWS", rows)
    x, new = examples(), examples(40) + 1
    mean = x.double().mean(0)
    directions = torch.linalg.svd(x.double() - mean)[2][:count]
    expected = (new - mean - (new - mean) @ directions.t() @ directions).square().sum(1)
    # Errors are small differences of squares near 1e3 in single precision: 1e3 * 1e-6 each way.
    torch.testing.assert_close(fitted(x).squared_errors(new, count).double(), expected, rtol=1e-3, atol=5e-3)


def test_images_are_flattened() -> None:
    x = examples(50, 12)
    flat, images = fitted(x), fitted(x.view(50, 3, 2, 2))
    assert torch.equal(flat.directions, images.directions)
    assert torch.equal(flat.squared_errors(x, 3), images.squared_errors(x.view(50, 3, 2, 2), 3))


def test_without_directions_it_is_the_error_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principal_components, "MOST_VALUES", F - 1)
    x = examples()
    expected = (x - x.mean(0)).square().sum(1)
    torch.testing.assert_close(fitted(x).squared_errors(x, 5), expected, rtol=1e-3, atol=1e-3)


def test_subspace_iteration_finds_the_leading_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    x = examples(400, 40)
    exact = fitted(x)
    monkeypatch.setattr(principal_components, "EXACT", 10)
    monkeypatch.setattr(principal_components, "MOST_DIRECTIONS", 8)
    monkeypatch.setattr(principal_components, "SPARE", 6)
    close = fitted(x)
    assert close.directions.shape == (40, 8)
    torch.testing.assert_close(close.directions.t() @ close.directions, torch.eye(8), rtol=0, atol=1e-5)
    # The spectrum falls by a third from the 8th to the 14th value: 30 rounds leave (2/3)^60 of a mistake.
    torch.testing.assert_close(
        close.squared_errors(x, 8).mean(), exact.squared_errors(x, 8).mean(), rtol=1e-4, atol=1e-3
    )


def test_large_examples_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    x = examples(600)
    monkeypatch.setattr(principal_components, "EXACT", F - 1)
    monkeypatch.setattr(principal_components, "WORK", 200 * F**2)  # of 600 examples every third
    thinned = fitted(x)
    seen = torch.cat([part[::3] for part, _ in batches_of(x)])
    torch.testing.assert_close(thinned.mean, seen.mean(0), rtol=1e-5, atol=1e-4)


def test_the_state_gives_the_same_bits() -> None:
    x = examples()
    components, other = fitted(x), PrincipalComponents()
    other.restore(components.state())
    assert torch.equal(components.squared_errors(x, 4), other.squared_errors(x, 4))
