"""Operations against closed forms."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import family_cases
from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.algorithms.contrastive_divergence import ContrastiveDivergence
from dlrun.models.lstm import LSTM
from dlrun.models.rbm import RBM
from dlrun.profiling.flops import Work, count
from dlrun.training.precision import Precision
from tiny import make_updater

B = 6


class Sum:
    """A task whose loss is the sum of the outputs."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss = model(batch[0]).sum()
        return loss, {"loss": loss.detach()}


def counted(model: nn.Module, *shape: int) -> Work:
    def algorithm(twin: nn.Module) -> Any:
        return Backpropagation(twin, Sum(), make_updater(twin), Precision())  # type: ignore[arg-type]

    return count(model, algorithm, (torch.ones(B, *shape), torch.ones(B)))


@pytest.mark.parametrize("widths", [[7, 3], [7, 5, 3], [4, 9, 8, 2]])
def test_a_fully_connected_network(widths: list[int]) -> None:
    pairs = list(pairwise(widths))
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairs))
    work = counted(model, widths[0])
    forward = 2 * B * sum(a * b for a, b in pairs)
    # Backward: the gradient of every weight, and of every layer's input but the first one's.
    assert work.flops == {("", "forward"): forward, ("", "backward"): 2 * forward - 2 * B * widths[0] * widths[1]}
    assert work.per_step == sum(work.flops.values())
    assert dict(work.layers) == {str(i): 2 * B * a * b for i, (a, b) in enumerate(pairs)}
    assert work.parameters == (sum(a * b + b for a, b in pairs), 0)
    assert work.weights == work.gradients == 4 * work.parameters[0]
    assert work.optimizer == work.weights, "one momentum for each weight"


def test_a_convolution() -> None:
    work = counted(nn.Conv2d(3, 5, 3, padding=1), 3, 8, 8)
    forward = 2 * B * 5 * 8 * 8 * 3 * 3 * 3
    assert work.flops == {("", "forward"): forward, ("", "backward"): forward}, "no gradient for the pictures"


def test_a_fused_kernel_is_counted_written_out() -> None:
    steps, hidden, classes = 5, 4, 2
    model = LSTM((steps, 3), (classes,), hidden=hidden)
    work = counted(model, steps, 3)
    gates = 2 * B * steps * 4 * hidden * (3 + hidden)
    assert work.flops["", "forward"] == gates + 2 * B * hidden * classes


def test_the_optimizer_is_not_the_model() -> None:
    """Muon multiplies matrices too; they are counted, apart."""
    from dlrun.optimizers import Muon
    from dlrun.training.updater import Updater

    def algorithm(twin: nn.Module) -> Any:
        updater = Updater(Muon(twin.parameters()), torch.amp.GradScaler("cpu", enabled=False))
        return Backpropagation(twin, Sum(), updater, Precision())  # type: ignore[arg-type]

    work = count(nn.Linear(7, 3), algorithm, (torch.ones(B, 7), torch.ones(B)))
    assert work.flops["", "optimizer"] > 0
    assert work.per_step == 2 * (2 * B * 7 * 3)


def test_both_phases_of_a_boltzmann_machine() -> None:
    def algorithm(twin: Any) -> Any:
        return ContrastiveDivergence(twin, make_updater(twin), k=2)

    visible, hidden = 5, 4
    work = count(RBM((visible,), hidden=hidden), algorithm, (torch.ones(B, visible), torch.ones(B)))
    product = 2 * B * visible * hidden
    # Positive: hidden from data, its reconstruction, both statistics. Negative: twice hidden, once visible between.
    assert work.flops == {("", "positive phase"): 4 * product, ("", "negative phase"): 3 * product}


def test_what_has_no_formula_is_named() -> None:
    work = counted(nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1)), 7)
    names = dict(work.uncounted)
    assert names["tanh"] == names["tanh_backward"] == 1
    assert not {"addmm", "mm", "view", "t"} & set(names)


def test_activations_are_what_backward_needs() -> None:
    work = counted(nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1)), 7)
    assert work.activations == 4 * B * 5, "the output of tanh; the batch and the weights are there anyway"


def test_the_model_is_left_alone() -> None:
    model = nn.Linear(7, 3)
    before = model.weight.detach().clone()
    counted(model, 7)
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None


def test_turns_of_two_networks_are_averaged(family_files: dict[str, Path]) -> None:
    experiment = family_cases.experiment("gan-wasserstein", family_files)  # three steps of the critic to one
    work = count(family_cases.model(experiment), experiment.algorithm, family_cases.batch(experiment))
    critic, generator = work.flops["discriminator", "backward"], work.flops["generator", "backward"]
    assert critic > generator > 0
    names = {name.partition(".")[0] for name, _ in work.layers}
    assert names == {"discriminator", "generator"}


def test_a_line_search_that_looks_more_often_works_more() -> None:
    work = counted(nn.Linear(7, 3), 7)
    assert work.at({("", "forward"): 1.0}) is work
    assert work.at({}) is work
    assert work.at({("", "forward"): 2.5}).per_step == 2.5 * work.per_step
