"""How likely a restricted Boltzmann machine finds data: log Z by annealed importance sampling, or exactly when small.

log p(v) = -F(v) - log Z. Source: R. Salakhutdinov, I. Murray, "On the Quantitative Analysis of Deep Belief Networks",
ICML 2008, section 4.1. From a base-rate machine A (visible units without connections, Z_A known) to the machine B by
p_k(v) ~ exp(-(1 - beta_k) E_A(v)) sum_h exp(-beta_k E_B(v, h)), beta_k from 0 to 1: a chain starts from A, is moved by
one Gibbs step of each p_k, and carries the weight w = product of p_k(v_k) / p_(k-1)(v_k), where v_k is its state
before that step. Then Z_B = Z_A 2^H mean(w).
Differs from it in: 1. the betas keep the paper's three stretches (to 0.5, 0.9 and 1) and their shares of the steps, for
any number of steps; 2. ``spread`` is three deviations of the mean of w on the scale of log Z to first order, where the
paper prints log(Z - 3 sigma) and log(Z + 3 sigma).

Shapes: M chains, V visible units, H hidden units.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlrun.models.rbm import RBMView
from dlrun.tasks.in_pieces import pieces

STRETCHES = ((0.0, 0.5, 1), (0.5, 0.9, 8), (0.9, 1.0, 20))  # from, to, parts of 29: 500, 4,000 and 10,000 of 14,500
MOST_ENUMERATED = 18
CHUNK = 4096


@dataclass(frozen=True)
class Estimate:
    """An estimate of log Z.

    Attributes:
        log_z: 0-d, float64.
        spread: three standard deviations of it, 0-d, float64.
    """

    log_z: Tensor
    spread: Tensor


def betas(steps: int) -> list[float]:
    """Inverse temperatures from 0 to 1, ``steps`` of them after the 0, close together near 1."""
    parts = sum(share for _, _, share in STRETCHES)
    found = [0.0]
    ends = [round(steps * sum(s for _, _, s in STRETCHES[: i + 1]) / parts) for i in range(len(STRETCHES))]
    for (low, high, _), start, end in zip(STRETCHES, [0, *ends[:-1]], ends, strict=True):
        found += [low + (high - low) * (i + 1) / (end - start) for i in range(end - start)]
    return found


@torch.no_grad()
def anneal(view: RBMView, base: Tensor, temperatures: list[float], chains: int) -> tuple[Tensor, Tensor]:
    """Chains led from the base-rate machine to ``view``: their last states (M, V) and log weights (M,), float64.

    Args:
        view: the machine B.
        base: visible biases (V,) of the base-rate machine A.
        temperatures: beta_0 = 0 up to 1.
        chains: M.
    """
    units, hidden = view.visible_units, view.hidden_units
    visible = units.sample(units.mean(base.expand(chains, -1)))
    weights = visible.new_zeros(chains, dtype=torch.float64)
    for last, beta in pieces(itertools.pairwise(temperatures)):
        x = view.up(visible)
        gained = hidden.log_ratio(beta * x, last * x) + (beta - last) * (visible @ (view.visible_bias - base))
        weights += gained
        states = hidden.sample(hidden.mean(beta * x))
        visible = units.sample(units.mean(torch.lerp(base, view.down(states), beta)))
    return visible, weights


def estimate(view: RBMView, base: Tensor, steps: int, chains: int) -> Estimate:
    """Log Z of ``view`` from ``chains`` annealed chains of ``steps`` temperatures."""
    _, weights = anneal(view, base, betas(steps), chains)
    log_mean = weights.logsumexp(0) - math.log(chains)
    relative = (weights - log_mean).exp().std() / math.sqrt(chains)  # deviation of the mean of w over the mean
    start = view.visible_units.log_partition(base) + view.hidden_units.log_partition(torch.zeros_like(view.hidden_bias))
    return Estimate(start.double() + log_mean, 3 * relative)


def enumerable(view: RBMView) -> bool:
    """Whether one of the layers is binary and small enough for its states to be counted out."""
    hidden, visible = view.weight.shape
    sides = ((view.hidden, hidden), (view.visible, visible))
    return any(kind == "bernoulli" and units <= MOST_ENUMERATED for kind, units in sides)


@torch.no_grad()
def exact_log_z(view: RBMView) -> Tensor:
    """Log Z of an ``enumerable`` machine in float64: the sum over every state of the smaller binary layer, 0-d."""
    flipped = RBMView(view.weight.T, view.hidden_bias, view.visible_bias, view.hidden, view.visible)
    small = min((v for v in (view, flipped) if v.visible == "bernoulli"), key=lambda v: len(v.visible_bias))
    double = RBMView(
        small.weight.double(), small.visible_bias.double(), small.hidden_bias.double(), small.visible, small.hidden
    )
    units = len(small.visible_bias)
    places = torch.arange(units, device=view.weight.device)
    sums = []
    for numbers in pieces(torch.arange(2**units, device=view.weight.device).split(CHUNK)):
        states = (numbers[:, None] >> places & 1).double()  # (CHUNK, units): the binary digits
        sums.append((-double.free_energy(states)).logsumexp(0))
    return torch.stack(sums).logsumexp(0)
