"""Zero, backward, clip, step: each against torch's own, and the float16 scaler on the CPU."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from dlrun.training.updater import Clip, ClipByNorm, ClipByValue, Updater, Updaters
from tiny import make_updater

INERT = torch.amp.GradScaler("cpu", enabled=False)


def pair() -> tuple[nn.Linear, nn.Linear]:
    first = nn.Linear(3, 2)
    return first, copy.deepcopy(first)


def loss_of(model: nn.Module, scale: float = 10.0) -> torch.Tensor:
    x = torch.arange(12.0).reshape(4, 3)
    loss: torch.Tensor = scale * model(x).square().mean()
    return loss


@pytest.mark.parametrize(
    ("clip", "by_torch"),
    [
        (ClipByNorm(0.5), lambda p: nn.utils.clip_grad_norm_(p, 0.5)),
        (ClipByValue(0.5), lambda p: nn.utils.clip_grad_value_(p, 0.5)),
    ],
)
def test_clipping_equals_torch(clip: Clip, by_torch: Clip) -> None:
    mine, other = pair()
    updater = make_updater(mine, clips=[clip])
    updater.zero_grad()
    updater.backward(loss_of(mine))
    updater.step()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.5)
    loss_of(other).backward()
    by_torch(list(other.parameters()))
    optimizer.step()
    assert torch.equal(mine.weight, other.weight)
    assert torch.equal(mine.weight.grad, other.weight.grad)  # type: ignore[arg-type]


def test_clips_apply_in_order() -> None:
    calls: list[str] = []
    model = nn.Linear(3, 2)
    updater = make_updater(model, clips=[lambda p: calls.append("norm"), lambda p: calls.append("value")])
    updater.backward(loss_of(model))
    updater.step()
    assert calls == ["norm", "value"]


def test_the_factor_multiplies_every_group_s_base_rate() -> None:
    a, b = pair()
    groups = [{"params": a.parameters(), "lr": 0.1}, {"params": b.parameters(), "lr": 0.01}]
    updater = Updater(torch.optim.SGD(groups), torch.amp.GradScaler("cpu", enabled=False))
    updater.set_factor(0.5)
    updater.set_factor(0.25)
    assert [g["lr"] for g in updater.optimizer.param_groups] == [0.1 * 0.25, 0.01 * 0.25]
    assert updater.rate == 0.1 * 0.25
    updater.set_factor(1.0)
    assert updater.rate == 0.1


def test_zero_grad_forgets_and_backward_adds() -> None:
    model = nn.Linear(3, 2)
    updater = make_updater(model)
    updater.backward(loss_of(model))
    once = model.weight.grad.clone()  # type: ignore[union-attr]
    updater.backward(loss_of(model))
    torch.testing.assert_close(model.weight.grad, 2 * once)
    updater.zero_grad()
    assert model.weight.grad is None
    assert model.bias.grad is None


def test_the_gradient_norm_is_that_of_one_long_vector() -> None:
    model = nn.Linear(3, 2)
    updater = make_updater(model)
    updater.backward(loss_of(model))
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
    torch.testing.assert_close(updater.gradient_norm(), flat.norm())
    assert torch.equal(
        updater.gradient_norm(), nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    )
    model.bias.grad, model.bias.data = None, model.bias.data.double()
    model.bias.grad = torch.ones(2, dtype=torch.float64)
    assert float(updater.gradient_norm()) == pytest.approx(float((model.weight.grad.square().sum() + 2).sqrt()))  # type: ignore[union-attr]
    clipped = make_updater(model, lr=0.0, clips=[ClipByNorm(0.5)])
    clipped.step()
    assert float(clipped.gradient_norm()) == pytest.approx(0.5, rel=1e-4)


def scaled(model: nn.Module, *clips: Clip, fused: bool = False) -> Updater:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    return Updater(optimizer, torch.amp.GradScaler("cpu", init_scale=1024.0), clips)


def test_a_scaled_step_that_overflows_is_skipped_and_the_scale_falls() -> None:
    model = nn.Linear(3, 2)
    updater = scaled(model)
    before = model.weight.detach().clone()
    updater.backward(loss_of(model))
    model.weight.grad[0, 0] = math.inf  # type: ignore[index]
    updater.step()
    assert torch.equal(model.weight, before)
    assert updater.scaler.get_scale() == 512.0
    updater.zero_grad()
    updater.backward(loss_of(model))
    updater.step()
    assert not torch.equal(model.weight, before)
    assert updater.scaler.get_scale() == 512.0


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clips", [[], [ClipByNorm(0.5)]], ids=["unclipped", "clipped"])
def test_scaling_changes_neither_the_step_nor_the_norm(fused: bool, clips: list[Clip]) -> None:
    mine, other = pair()
    plain = Updater(torch.optim.Adam(other.parameters(), lr=0.1), torch.amp.GradScaler("cpu", enabled=False), clips)
    both = [(scaled(mine, *clips, fused=fused), mine), (plain, other)]
    for updater, model in both:
        updater.backward(loss_of(model))
        updater.step()
    torch.testing.assert_close(mine.weight, other.weight)  # powers of two scale exactly; fused rounds its own way
    torch.testing.assert_close(both[0][0].gradient_norm(), both[1][0].gradient_norm())


def test_the_state_makes_a_round_trip() -> None:
    mine, other = pair()
    first, second = scaled(mine), scaled(other)
    first.set_factor(0.5)
    for _ in range(3):
        first.zero_grad()
        first.backward(loss_of(mine))
        first.step()
    first.scaler.update(256.0)
    other.load_state_dict(mine.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.rate == first.rate == 0.05
    assert second.scaler.get_scale() == 256.0
    for updater, model in ((first, mine), (second, other)):
        updater.zero_grad()
        updater.backward(loss_of(model))
        updater.step()
    assert torch.equal(mine.weight, other.weight)
    second.set_factor(1.0)
    assert second.rate == 0.1, "the base rate is the configuration's, not the scheduled one"


def test_several_updaters_look_like_one() -> None:
    models = [nn.Linear(2, 1), nn.Linear(3, 1)]
    parts = [Updater(torch.optim.SGD(m.parameters(), lr=lr), INERT) for m, lr in zip(models, (0.1, 0.4), strict=True)]
    both = Updaters(parts)
    assert len(both.parameters) == 4
    both.set_factor(0.5)
    assert both.rate == pytest.approx(0.05)
    assert [part.rate for part in parts] == pytest.approx([0.05, 0.2])
    for parameter in both.parameters:
        parameter.grad = torch.ones_like(parameter)
    assert both.gradient_norm().item() == pytest.approx(7**0.5)  # seven numbers of one each
    assert not both.scaled


def test_the_state_of_several_updaters_comes_back() -> None:
    def make() -> Updaters:
        torch.manual_seed(0)
        models = [nn.Linear(2, 1), nn.Linear(3, 1)]
        return Updaters([Updater(torch.optim.Adam(m.parameters(), lr=0.1), INERT) for m in models])

    first, second = make(), make()
    for parameter in first.parameters:
        parameter.grad = torch.ones_like(parameter)
    for part in first.parts:
        part.step()
    first.set_factor(0.3)
    second.load_state_dict(first.state_dict())
    moments = [part.optimizer.state_dict()["state"] for part in (*first.parts, *second.parts)]
    assert all(torch.equal(moments[i][0]["exp_avg"], moments[i + 2][0]["exp_avg"]) for i in (0, 1))
    assert second.rate == first.rate
