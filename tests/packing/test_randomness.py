"""A pack's random numbers are, bit for bit, those that each of its trials would have drawn alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.func import grad, stack_module_state, vmap
from torch.nn import functional as F

import family_cases as cases
from dlrun.build import Experiment, check
from dlrun.config import compose
from dlrun.packing.flat import Unpackable
from dlrun.packing.randomness import Plan, Replay, rehearse
from stacked import Lane

LANES = 3


def generators(seed: int = 0, lanes: int = LANES) -> list[Generator]:
    return [Generator().manual_seed(100 * seed + lane) for lane in range(lanes)]


def alone(function: Callable[[], Any], generator: Generator) -> tuple[Any, Tensor]:
    """What a run alone computes from a generator's state, and the state that it leaves."""
    with torch.random.fork_rng([]):
        torch.set_rng_state(generator.get_state())
        return function(), torch.get_rng_state()


def packed(function: Callable[[Tensor], Tensor], lanes: Sequence[Tensor], sources: list[Generator]) -> Tensor:
    """``function`` of all lanes' tensors under one ``vmap``, with each lane's own numbers."""
    plan, _ = rehearse([lambda x=x: function(x) for x in lanes], [nn.Identity()] * len(lanes), sources)
    noise = plan.draw(sources)

    def one(x: Tensor, numbers: tuple[Tensor, ...]) -> Tensor:
        with Replay(plan, numbers):
            return function(x)

    return vmap(one, randomness="error")(torch.stack(list(lanes)), noise)


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda x: x.flatten(1),
    "pictures": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.flatten(1).t(),
    "expanded": lambda x: x[..., :1].expand(-1, -1, -1, 6),
    "half of the channels": lambda x: x[:, 1:3],
    "few": lambda x: x[:1, 0, 0],
}
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout module": nn.Dropout(0.6),
    "two dropouts": lambda x: F.dropout(F.dropout(x, 0.3).tanh(), 0.7),
    "dropout in place": lambda x: F.dropout(x * 2, 0.3, inplace=True),
    "everything": lambda x: F.dropout(x, 1.0) + torch.rand_like(x),
    "not in training": lambda x: F.dropout(x, 0.3, training=False) + torch.rand_like(x),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "feature alpha dropout": lambda x: F.feature_alpha_dropout(x.unflatten(0, (1, -1)), 0.3, training=True),
    "rand_like": lambda x: x + torch.rand_like(x),
    "randn_like": lambda x: x + torch.randn_like(x),
    "float64": lambda x: x + torch.randn_like(x, dtype=torch.float64),
    "rand": lambda x: x.amax() + torch.rand(3, 2) + torch.rand((4, 1, 2)),
    "randn": lambda x: x.amax() * torch.randn(5, 7) + torch.randn(3, 1, 1),
    "randint": lambda x: x.amax() + torch.randint(9, (5, 4)) + torch.randint(2, 7, (4,)),
    "randint by name": lambda x: (
        x.amax() + torch.randint(high=3, size=(2, 5)) + torch.randint(low=2, high=5, size=(5,))
    ),
    "randint_like": lambda x: torch.randint_like(x, 9) + torch.randint_like(x, 2, 5) + torch.randint_like(x, high=4),
    "coins": lambda x: x + torch.bernoulli(x.sigmoid()) + x.sigmoid().bernoulli(),
    "fair coins": lambda x: x + torch.bernoulli(x, 0.5),
    "filled": lambda x: torch.empty_like(x).normal_(1, 2) + torch.zeros_like(x).uniform_() + x.clone().exponential_(2),
    "filled by name": lambda x: torch.zeros_like(x).normal_(std=2) + torch.ones_like(x).bernoulli_(p=0.3),
}


@pytest.mark.parametrize("layout", INPUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_same_bits_as_alone_and_the_generators_go_on_alike(name: str, layout: str) -> None:
    operation, sources = OPERATIONS[name], generators()
    lanes = [INPUTS[layout](torch.randn(5, 4, 3, 6, generator=source)) for source in generators(seed=1)]
    expected = [alone(lambda x=x: operation(x), source) for x, source in zip(lanes, sources, strict=True)]
    together = packed(operation, lanes, sources)
    for lane, (value, state) in enumerate(expected):
        assert torch.equal(together[lane], value)
        assert torch.equal(sources[lane].get_state(), state)


@pytest.mark.parametrize("function", [F.dropout1d, F.dropout2d, F.dropout3d])
def test_dropout_of_whole_maps(function: Callable[..., Tensor]) -> None:
    shape = {F.dropout1d: (4, 3, 5), F.dropout2d: (4, 3, 5, 2), F.dropout3d: (4, 3, 5, 2, 2)}[function]
    sources, lanes = generators(), [torch.randn(shape) for _ in range(LANES)]
    for inputs in (lanes, [x[0] for x in lanes] if function is not F.dropout2d else lanes):
        expected = [alone(lambda x=x: function(x, 0.4), source)[0] for x, source in zip(inputs, sources, strict=True)]
        assert torch.equal(packed(lambda x: function(x, 0.4), inputs, sources), torch.stack(expected))


@settings(max_examples=15, deadline=None)
@given(shares=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=2, max_size=4))
def test_lanes_with_different_shares(shares: list[float]) -> None:
    """A share of 0 or 1 draws nothing at all, so that lane's later numbers come earlier than the others'."""
    sources = generators(lanes=len(shares))
    x = torch.randn(7, 9)

    def twice(share: float) -> Tensor:
        return F.dropout(F.dropout(x, share) + 1, 0.5)

    expected = [alone(lambda share=share: twice(share), source) for share, source in zip(shares, sources, strict=True)]
    plan, values = rehearse([lambda s=s: twice(s) for s in shares], [nn.Identity()] * len(shares), sources)

    def one(share: Tensor, noise: tuple[Tensor, ...]) -> Tensor:
        with Replay(plan, noise):
            return twice(share)  # type: ignore[arg-type]

    together = vmap(one, randomness="error")(torch.tensor(shares), plan.draw(sources))
    for lane, (value, state) in enumerate(expected):
        assert torch.equal(together[lane], value)
        assert torch.equal(values[lane], value)
        assert torch.equal(sources[lane].get_state(), state)


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float"])
def test_attention_by_torch_is_written_out(mask: str) -> None:
    masks = {"bool": torch.rand(5, 5) > 0.3, "float": torch.randn(5, 5)}
    if mask == "bool":
        masks["bool"].fill_diagonal_(True)

    def attend(x: Tensor, share: float = 0.3) -> Tensor:
        return F.scaled_dot_product_attention(
            x, x.cos(), x.sin(), attn_mask=masks.get(mask), dropout_p=share, is_causal=mask == "causal"
        )

    sources, lanes = generators(), [torch.randn(2, 3, 5, 4) for _ in range(LANES)]
    expected = [alone(lambda x=x: attend(x), source) for x, source in zip(lanes, sources, strict=True)]
    together = packed(attend, lanes, sources)
    for lane, (value, state) in enumerate(expected):
        torch.testing.assert_close(together[lane], value)
        assert torch.equal(sources[lane].get_state(), state)


def test_the_same_under_vmap_of_grad_and_when_compiled() -> None:
    x, weights, sources = torch.randn(4, 3), torch.randn(LANES, 5, 3), generators()

    def loss(weight: Tensor) -> Tensor:
        return F.dropout(F.linear(x, weight), 0.4).square().mean()

    plan, _ = rehearse([lambda w=w: loss(w) for w in weights], [nn.Identity()] * LANES, sources)
    noise = plan.draw(sources)

    def one(weight: Tensor, numbers: tuple[Tensor, ...]) -> Tensor:
        with Replay(plan, numbers):
            return loss(weight)

    weights.requires_grad_()
    losses = vmap(one)(weights, noise)
    losses.sum().backward()
    torch.testing.assert_close(vmap(grad(one))(weights.detach(), noise), weights.grad)
    compiled = torch.compile(lambda *inputs: vmap(one)(*inputs), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(weights, noise), losses)


class Statistics(nn.Module):
    """A network that counts its calls in a buffer and puts another tensor in place of a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.mean(0)
        out: Tensor = self.norm(x)
        return F.dropout(out, 0.5)


def test_a_rehearsal_leaves_no_trace() -> None:
    models, sources = [Statistics() for _ in range(LANES)], generators()
    before = [{name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()} for model in models]
    states, own = [source.get_state() for source in sources], torch.get_rng_state()
    plan, values = rehearse([lambda m=m: m(torch.ones(4, 3)) for m in models], models, sources)
    assert len(values) == LANES
    assert plan
    assert all(torch.equal(source.get_state(), state) for source, state in zip(sources, states, strict=True))
    assert torch.equal(torch.get_rng_state(), own)
    for model, buffers in zip(models, before, strict=True):
        for name, buffer in model.named_buffers():
            assert buffer is buffers[name][0]
            assert torch.equal(buffer, buffers[name][1])


def test_nothing_drawn_is_a_false_plan_that_replays_too() -> None:
    models: list[nn.Module] = [nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.0)).train() for _ in range(2)]
    x, sources = torch.ones(4, 3), generators(lanes=2)
    plan, values = rehearse([lambda m=m: m(x) for m in models], models, sources)
    assert not plan
    assert plan.draw(sources) == ()
    with Replay(plan, ()):
        assert torch.equal(models[0](x), values[0])


def test_fewer_lanes_go_on_with_their_own_numbers() -> None:
    x, sources, others = torch.ones(4, 3), generators(), generators()
    shares = [0.2, 0.5, 0.7]
    plan, _ = rehearse([lambda s=s: F.dropout(x, s) for s in shares], [nn.Identity()] * LANES, sources)
    all_of_them = plan.draw(sources)[0].clone()
    assert torch.equal(plan.keep([2, 0]).draw([others[2], others[0]])[0], all_of_them[[2, 0]])


def test_numbers_must_be_used_before_the_next_are_drawn() -> None:
    x, sources = torch.ones(4, 3, requires_grad=True), generators(lanes=1)
    plan, _ = rehearse([lambda: F.dropout(x, 0.5)], [nn.Identity()], sources)
    with Replay(plan, [plan.draw(sources)[0][0]]):
        out = F.dropout(x, 0.5)
    plan.draw(sources)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_one_draw_for_all_lanes_as_on_a_gpu() -> None:
    """Without generators: the shares of each lane, other numbers in each, and the losses that belong to them."""
    x, shares = torch.ones(200, 100), [0.0, 0.25, 1.0]

    def loss(share: float) -> Tensor:
        return F.dropout(x, share) + torch.randn_like(x) + torch.zeros_like(x).uniform_()

    plan, values = rehearse([lambda s=s: loss(s) for s in shares], [nn.Identity()] * LANES, None)
    zeros, normal, uniform = plan.draw(None)
    assert (zeros == 0).double().mean((1, 2)).tolist() == pytest.approx(shares, abs=0.02)
    assert zeros[1].unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert not torch.equal(normal[0], normal[1])
    assert torch.equal(torch.stack(values), zeros + normal + uniform)


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "rrelu": lambda x: F.rrelu(x, training=True),
    "randperm": lambda x: x[torch.randperm(len(x))],
    "multinomial": lambda x: torch.multinomial(x.exp(), 1),
    "gumbel": lambda x: F.gumbel_softmax(x),
    "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(x.sigmoid()),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_it_cannot_follow_is_refused_by_name(name: str) -> None:
    with pytest.raises(Unpackable, match=name):
        rehearse([lambda: UNKNOWN[name](torch.randn(4, 3))], [nn.Identity()], generators(lanes=1))


def test_a_draw_that_no_call_into_torch_shows_is_refused() -> None:
    with pytest.raises(Unpackable, match="could not be followed"):
        rehearse([lambda: torch.default_generator.manual_seed(1)], [nn.Identity()], generators(lanes=1))


def test_a_draw_that_the_rehearsal_did_not_have_is_refused() -> None:
    plan, _ = rehearse([lambda: torch.ones(3)], [nn.Identity()], generators(lanes=1))
    with pytest.raises(Unpackable, match=r"rand_like draws .* where it drew none"), Replay(plan, ()):
        torch.rand_like(torch.ones(3))


def test_a_tensor_that_all_trials_share_cannot_be_filled() -> None:
    with pytest.raises(Unpackable, match="uniform_ fills a tensor that all trials share"):
        packed(lambda x: x + torch.empty(6).uniform_(), [torch.randn(6)] * 2, generators(lanes=2))


def test_lanes_that_draw_differently_do_not_pack() -> None:
    x = torch.ones(3)
    with pytest.raises(Unpackable, match="different numbers of places"):
        rehearse([lambda: F.dropout(x), lambda: x], [nn.Identity()] * 2, generators(lanes=2))
    with pytest.raises(Unpackable, match="different shapes"):
        rehearse([lambda: F.dropout(x), lambda: F.dropout(x[:2])], [nn.Identity()] * 2, generators(lanes=2))


# Whole families: what draws, beside every model that has a dropout.
DEEP = ["algorithm=backpropagation", "model.hidden=[8,6]", "model.dropout=0.3", "model.input_dropout=0.2"]
RECURRENT = ["model.hidden=6", "model.layers=2", "model.dropout=0.3"]
DENOISING = ["model=denoising", "model.hidden=[8]", "model.code=4"]
VAE = ["model=vae", "model.hidden=[8]", "model.code=3"]
TEXT = [*cases.TEXT, "model.width=8", "model.layers=2", "model.dropout=0.2"]
DRAWING = {
    "mlp": ["model=mlp", "model.dropout=0.3", "model.batch_norm=true"],
    "cnn": [
        *("model=cnn", "model.channels=[4,6]", "model.hidden=[8]", "model.dropout=0.3", "model.batch_norm=true"),
        "trainer.channels_last=false",
    ],
    "rnn": ["model=rnn", *RECURRENT, "model.bidirectional=true"],
    "lstm": ["model=lstm", *RECURRENT],
    "lstm-text": ["model=lstm", *cases.TEXT, *RECURRENT],
    "gru-series": ["model=gru", *cases.OVERRIDES["dlinear"], *RECURRENT],
    "transformer": ["model=transformer", *TEXT],
    "transformer-rotary": ["model=transformer", *TEXT, "model.positions=rotary"],
    "transformer_encoder": ["model=transformer_encoder", "model.width=8", "model.dropout=0.2"],
    "vit": ["model=vit", "model.width=8", "model.layers=2", "model.dropout=0.2"],
    "patch_transformer": ["model=patch_transformer", *cases.OVERRIDES["dlinear"], "model.layers=2"],
    "dbm": ["model=dbm", *DEEP],
    "dbn": ["model=dbn", *DEEP],
    "vae": [*VAE],
    "vae-gaussian": [*VAE, "loss=mse"],
    "masking": [*DENOISING],
    "gaussian": [*DENOISING, "task.corruption=gaussian"],
    "salt_pepper": [*DENOISING, "task.corruption=salt_pepper"],
}


def experiment(words: Sequence[str], files: dict[str, Path]) -> Experiment:
    return check(compose([*(word.format(**files) for word in words), "trainer.device=cpu"]))


@pytest.mark.parametrize("name", DRAWING)
def test_three_steps_of_a_family_equal_those_of_separate_runs(name: str, family_files: dict[str, Path]) -> None:
    chosen = experiment(DRAWING[name], family_files)
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(chosen.model().train())
    batches = [cases.batch(chosen, seed=step) for step in range(3)]
    template, sources = cases.model(chosen).train(), generators(lanes=2)
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]
    one_batch = [lambda m=m: chosen.task.loss(m, batches[0])[0] for m in models]  # type: ignore[attr-defined]
    plan, first = rehearse(one_batch, models, sources)
    assert plan
    together = [step_of_pack(chosen, template, (parameters, buffers), batch, plan, sources) for batch in batches]
    torch.testing.assert_close(together[0], torch.stack(first), rtol=1e-6, atol=1e-6)
    for lane, (model, source) in enumerate(zip(models, generators(lanes=2), strict=True)):
        losses, state = alone(lambda m=model: [step_alone(chosen, m, batch) for batch in batches], source)
        torch.testing.assert_close(
            torch.stack([step[lane] for step in together]), torch.stack(losses), rtol=1e-6, atol=1e-6
        )
        assert torch.equal(sources[lane].get_state(), state)


def step_alone(chosen: Experiment, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    loss: Tensor = chosen.task.loss(model, batch)[0]  # type: ignore[attr-defined]
    weights = list(model.parameters())
    with torch.no_grad():
        for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight -= 0.05 * slope
    return loss.detach()


def step_of_pack(
    chosen: Experiment,
    template: nn.Module,
    state: tuple[dict[str, Tensor], dict[str, Tensor]],
    batch: tuple[Tensor, Tensor],
    plan: Plan,
    sources: list[Generator],
) -> Tensor:
    def one(weights: dict[str, Tensor], statistics: dict[str, Tensor], noise: tuple[Tensor, ...]) -> Tensor:
        with Replay(plan, noise):
            return chosen.task.loss(Lane(template, (weights, statistics)), batch)[0]  # type: ignore[attr-defined,no-any-return]

    losses = vmap(one, randomness="error")(*state, plan.draw(sources))
    weights = list(state[0].values())
    slopes = torch.autograd.grad(losses.sum(), weights)
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            weight -= 0.05 * slope
    return losses.detach()


def test_a_random_activation_does_not_pack(family_files: dict[str, Path]) -> None:
    """It draws as many numbers as there are negative inputs, which the pack would have to know beforehand."""
    chosen = experiment(["activation=rrelu"], family_files)
    model = chosen.model().train()
    with pytest.raises(Unpackable, match="rrelu draws random numbers"):
        rehearse([lambda: chosen.task.loss(model, cases.batch(chosen))], [model], None)  # type: ignore[attr-defined]
