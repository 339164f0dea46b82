from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlrun.adversarial_losses import LeastSquares, NonSaturating, Wasserstein, gradient_penalty
from dlrun.errors import ConfigError

REAL, FAKE = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [-3.0]])


def test_non_saturating_is_cross_entropy_against_real_and_generated() -> None:
    loss = NonSaturating()
    bce = F.binary_cross_entropy_with_logits
    expected = bce(REAL, torch.ones(2, 1)) + bce(FAKE, torch.zeros(2, 1))
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)
    torch.testing.assert_close(loss.generator(FAKE), bce(FAKE, torch.ones(2, 1)))


def test_the_generator_has_a_slope_where_the_discriminator_is_sure() -> None:
    """log(1 - D) would have one of e^-30 there."""
    scores = torch.full((1, 1), -30.0, requires_grad=True)
    NonSaturating().generator(scores).backward()
    assert scores.grad is not None
    assert scores.grad.item() == pytest.approx(-1.0)


def test_least_squares_by_hand() -> None:
    loss = LeastSquares()
    # ((2-1)^2 + (-1-1)^2) / 2 = 2.5 and (0.25 + 9) / 2 = 4.625; half of their sum
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx((2.5 + 4.625) / 2)
    assert loss.generator(FAKE).item() == pytest.approx((0.25 + 16) / 2 / 2)


def test_wasserstein_is_a_difference_of_means() -> None:
    loss = Wasserstein()
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(-1.25 - 0.5)
    assert loss.generator(FAKE).item() == pytest.approx(1.25)


@pytest.mark.parametrize("kind", [NonSaturating, LeastSquares, Wasserstein])
def test_each_side_pulls_its_own_way(kind: type) -> None:
    real, fake = REAL.clone().requires_grad_(), torch.zeros(2, 1, requires_grad=True)
    loss = kind()
    loss.discriminator(real, fake).backward()
    assert fake.grad is not None
    assert real.grad is not None
    assert real.grad[1] < 0  # a low score of a real example is to rise
    assert (fake.grad >= 0).all()  # the generated ones' are to fall (or are where least squares wants them)
    fake.grad = None
    loss.generator(fake).backward()
    assert (fake.grad < 0).all()


def test_the_penalty_of_a_linear_score_is_known() -> None:
    """D(x) = w x has the slope |w| everywhere."""
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    real, fake = torch.randn(5, 2), torch.randn(5, 2)
    penalty = gradient_penalty(lambda x: x @ weight, real, fake)
    assert penalty.item() == pytest.approx((5 - 1) ** 2)
    (slope,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(slope, 2 * (5 - 1) * weight.detach() / 5)  # by hand: 2 (|w| - 1) w / |w|


def test_the_penalty_looks_between_the_two_sets() -> None:
    """D(x) = x^2 / 2 has the slope |x|: from 2 to 4 the penalty is 1 to 9."""
    seen: list[Tensor] = []

    def score(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square().sum(dim=(1, 2)) / 2

    penalty = gradient_penalty(score, torch.full((200, 1, 1), 4.0), torch.full((200, 1, 1), 2.0))
    assert 1 < penalty.item() < 9
    assert seen[0].shape == (200, 1, 1)
    assert 2 <= seen[0].min() < 2.2
    assert 3.8 < seen[0].max() <= 4


def test_the_penalty_reaches_every_weight_of_a_net_with_rectifiers() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    gradient_penalty(net, torch.randn(4, 3), torch.randn(4, 3)).backward()
    for name in ("0.weight", "2.weight"):  # biases do not move slopes
        gradient = dict(net.named_parameters())[name].grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_what_each_loss_says_of_itself() -> None:
    for kind, penalty in ((NonSaturating, 0.0), (LeastSquares, 0.0), (Wasserstein, 10.0)):
        loss = kind()
        loss.fit(torch.tensor([1, 2]))
        assert loss.tasks == {"generation"}
        assert loss.penalty == penalty
        assert kind(penalty=0.5).penalty == 0.5
        with pytest.raises(ConfigError, match=r"loss\.penalty=-1"):
            kind(penalty=-1.0)
