from __future__ import annotations

import pytest
import torch
from torch import nn

from dlrun.errors import ConfigError
from dlrun.models.dcgan import DCGAN
from dlrun.models.gan import GAN


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,), (5,)])
def test_noise_becomes_examples_and_examples_scores(shape: tuple[int, ...]) -> None:
    model = GAN(shape, latent=3, hidden=(16, 8))
    noise = model.noise(7)
    assert noise.shape == (7, 3)
    examples = model.generator(noise)
    assert examples.shape == (7, *shape)
    assert model(examples).shape == (7, 1)


def test_images_stay_in_their_range_and_points_do_not() -> None:
    far = torch.full((4, 3), 1e4)
    assert GAN((1, 4, 4), latent=3).generator(far).abs().max() <= 1
    assert GAN((2,), latent=3).generator(far).abs().max() > 1


def test_the_nets_mirror_each_other() -> None:
    model = GAN((2,), latent=5, hidden=(16, 8))

    def widths(net: nn.Module) -> list[tuple[int, int]]:
        return [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]

    assert widths(model.generator) == [(5, 16), (16, 8), (8, 2)]
    assert widths(model.discriminator) == [(2, 8), (8, 16), (16, 1)]


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        ((1, 28, 28), [(64, 7, 7), (32, 14, 14)]),
        ((3, 32, 32), [(128, 4, 4), (64, 8, 8), (32, 16, 16)]),
        ((3, 64, 64), [(256, 4, 4), (128, 8, 8), (64, 16, 16), (32, 32, 32)]),
        ((1, 8, 8), [(32, 4, 4)]),
        ((1, 12, 20), [(64, 3, 5), (32, 6, 10)]),
    ],
)
def test_dcgan_doubles_and_halves_the_side(shape: tuple[int, ...], maps: list[tuple[int, ...]]) -> None:
    model = DCGAN(shape, latent=6)
    seen: list[tuple[int, ...]] = []
    for module in model.generator:
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    examples = model.generator(model.noise(2))
    assert seen == maps
    assert examples.shape == (2, *shape)
    assert examples.abs().max() <= 1
    halved: list[tuple[int, ...]] = []
    for module in model.discriminator:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, out: halved.append(tuple(out.shape[1:])))
    assert model(examples).shape == (2, 1)
    assert halved == maps[::-1]


def test_dcgan_starts_from_normal_weights() -> None:
    """40,000 weights: the deviation is known to 1 % with three standard errors."""
    model = DCGAN((1, 28, 28), batch_norm=True)
    for net in (model.generator, model.discriminator):
        weights = torch.cat([m.weight.flatten() for m in net if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)])
        assert weights.std().item() == pytest.approx(0.02, rel=0.02)
        scales = torch.cat([m.weight for m in net if isinstance(m, nn.BatchNorm2d)])
        assert scales.mean().item() == pytest.approx(1.0, abs=0.01)


def test_only_the_paper_form_ties_the_examples_of_a_batch_together() -> None:
    images = torch.randn(4, 1, 16, 16)
    for batch_norm in (False, True):
        model = DCGAN((1, 16, 16), channels=4, batch_norm=batch_norm)
        alone, together = model(images[:2]), model(images)[:2]
        assert torch.allclose(alone, together, atol=1e-5) is not batch_norm


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GAN((2,), latent=0), r"model\.latent=0"),
        (lambda: GAN((2,), hidden=()), r"model\.hidden=\[\]"),
        (lambda: GAN((2,), hidden=(3, 0)), "without units"),
        (lambda: DCGAN((1, 30, 30)), "multiples of 4"),
        (lambda: DCGAN((1, 4, 4)), "at least 8"),
        (lambda: DCGAN((64,)), "model=dcgan needs images"),
        (lambda: DCGAN((1, 8, 8), channels=0), r"model\.channels=0"),
    ],
)
def test_wrong_numbers_are_refused(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=says):
        make()
