"""Packed optimizers against as many of torch's own: weights, state, what is taken up and what is dropped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import (
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

from dlrun.optimizers import GradientDescent, Lion, Muon
from dlrun.packing.flat import Layout, Unpackable
from dlrun.packing.optimizers import adam, pack, packed

# A step's update is wrong by a few units of the last place (6e-8), 50 steps by at most 50 of these and mostly by 7;
# weights and updates are of order 1. torch's own fused and plain kernels differ as much.
TOLERANCE = 2e-6
SHAPES = [(5, 4), (5,), (2, 3, 2), (), (7, 9)]
Numbers = dict[str, Any]
Make = Callable[..., Optimizer]

rates = st.floats(1e-4, 0.1)
decays = st.sampled_from([0.0, 0.0, 0.01, 0.1])
epsilons = st.sampled_from([1e-8, 1e-6, 1e-3])
betas = st.tuples(st.floats(0.0, 0.95), st.floats(0.1, 0.999))
ADAM = {"lr": rates, "betas": betas, "eps": epsilons, "weight_decay": decays}
RMS = {"lr": rates, "alpha": st.floats(0.1, 0.99), "eps": epsilons, "weight_decay": decays}
MOMENTUM = {"lr": rates, "momentum": st.floats(0.1, 0.95), "weight_decay": decays}
ZERO_OR_MORE = st.one_of(st.just(0.0), st.floats(0.1, 0.9))

# name -> class, what all lanes share, what differs from lane to lane
CASES: dict[str, tuple[Make, Numbers, dict[str, st.SearchStrategy[Any]]]] = {
    "sgd": (SGD, {}, {"lr": rates, "weight_decay": decays}),
    "momentum": (SGD, {"fused": True}, MOMENTUM | {"momentum": ZERO_OR_MORE}),
    "dampened": (SGD, {}, MOMENTUM | {"momentum": ZERO_OR_MORE, "dampening": ZERO_OR_MORE}),
    "nesterov": (SGD, {"nesterov": True, "maximize": True}, MOMENTUM),
    "adagrad": (
        Adagrad,
        {},
        {"lr": rates, "lr_decay": decays, "weight_decay": decays, "eps": epsilons, "initial_accumulator_value": decays},
    ),
    "adadelta": (Adadelta, {}, {"lr": rates, "rho": st.floats(0.1, 0.99), "eps": epsilons, "weight_decay": decays}),
    "rmsprop": (RMSprop, {}, RMS),
    "rmsprop momentum": (RMSprop, {"maximize": True}, RMS | {"momentum": ZERO_OR_MORE}),
    # What is left of a mean of squares less the squared mean has few digits where the mean forgets quickly.
    "rmsprop centered": (RMSprop, {"centered": True}, RMS | {"alpha": st.floats(0.5, 0.99), "eps": st.just(1e-3)}),
    "adam": (Adam, {"fused": True}, ADAM),
    "adam amsgrad": (Adam, {"amsgrad": True, "maximize": True}, ADAM),
    "adamw": (AdamW, {}, ADAM),
    "nadam": (NAdam, {}, ADAM | {"momentum_decay": st.floats(0.0, 0.1)}),
    "nadam decoupled": (NAdam, {"decoupled_weight_decay": True}, ADAM),
    "radam": (RAdam, {}, ADAM),
    "radam decoupled": (RAdam, {"decoupled_weight_decay": True}, ADAM),
    "gd": (GradientDescent, {}, {"lr": rates}),
    "lion": (Lion, {}, {"lr": rates, "betas": betas, "weight_decay": decays}),
    "muon": (Muon, {}, ADAM | {"momentum": st.floats(0.1, 0.95), "adam_lr": rates}),
}
every_case = pytest.mark.parametrize("name", CASES)


def numbers_of(name: str, lanes: int) -> st.SearchStrategy[list[Numbers]]:
    return st.lists(st.fixed_dictionaries(CASES[name][2]), min_size=lanes, max_size=lanes)


def example_of(name: str) -> list[Numbers]:
    """Three lanes whose every number differs, for tests that need no search."""
    ends: dict[str, list[Any]] = {
        "lr": [0.1, 0.01, 0.03], "adam_lr": [0.1, 0.01, 0.03], "weight_decay": [0.0, 0.1, 0.01],
        "eps": [1e-8, 1e-3, 1e-6], "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.95)], "rho": [0.9, 0.5, 0.99],
        "alpha": [0.9, 0.5, 0.99], "momentum": [0.9, 0.3, 0.5], "dampening": [0.0, 0.5, 0.3],
        "lr_decay": [0.0, 0.1, 0.01], "initial_accumulator_value": [0.0, 0.4, 0.1], "momentum_decay": [4e-3, 0.0, 0.1],
    }  # fmt: skip
    if name == "rmsprop centered":
        ends["eps"] = [1e-3, 1e-3, 1e-2]
    return [{key: ends[key][lane] for key in CASES[name][2]} for lane in range(3)]


def gradients_of(lanes: int, size: int, source: torch.Generator) -> Tensor:
    """Of order 1, with zeros and values whose squares all but vanish in float32."""
    kind = torch.rand(lanes, size, generator=source)
    g = torch.randn(lanes, size, generator=source)
    return torch.where(kind < 0.1, 0.0, torch.where(kind < 0.2, g * 1e-20, g))


class Pair:
    """Lanes stepped together, and the same lanes stepped by their own optimizers."""

    def __init__(
        self, name: str, numbers: list[Numbers], steps_before: list[int] | None = None, device: str = "cpu"
    ) -> None:
        kind, shared, _ = CASES[name]
        self.device = device
        self.source = torch.Generator().manual_seed(0)
        drawn = [[torch.randn(shape, generator=self.source) for shape in SHAPES] for _ in numbers]
        parameters = [[nn.Parameter(tensor.to(device)) for tensor in lane] for lane in drawn]
        self.alone = [kind(p, **shared, **n) for p, n in zip(parameters, numbers, strict=True)]
        self.base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.alone]
        self.layout = Layout.of(ordered(self.alone[0]))
        for lane, steps in enumerate(steps_before or []):
            for _ in range(steps):
                self.step_alone(lane, self.gradients(1)[0], 1.0)
        self.lanes = copy.deepcopy(self.alone)
        self.weights = rows(self.lanes)
        for lane, optimizer in enumerate(self.lanes):
            for p, view in zip(ordered(optimizer), self.layout.lane_views(self.weights, lane), strict=True):
                p.data = view
        self.packed = pack(self.lanes, self.layout)
        self.step = self.packed.step

    def gradients(self, lanes: int) -> Tensor:
        return gradients_of(lanes, self.layout.size, self.source).to(self.device)

    def step_alone(self, lane: int, gradient: Tensor, factor: float) -> None:
        for group, base in zip(self.alone[lane].param_groups, self.base[lane], strict=True):
            group["lr"] = base * factor
        take_step(self.alone[lane], gradient)

    def run(self, steps: int) -> None:
        """Both, under a schedule that begins at rate zero."""
        for t in range(steps):
            factor = min(1.0, t / 5)
            gradients = self.gradients(len(self.alone))
            for lane in range(len(self.alone)):
                self.step_alone(lane, gradients[lane], factor)
            for lane, optimizer in enumerate(self.lanes):
                for group, base in zip(optimizer.param_groups, self.base[lane], strict=True):
                    group["lr"] = base * factor
            self.step(self.weights, gradients, torch.tensor(self.base, dtype=torch.float64) * factor)

    def keep(self, lanes: list[int]) -> None:
        self.packed.keep(lanes)
        self.weights = self.weights[lanes]
        self.lanes = [self.lanes[lane] for lane in lanes]
        self.alone = [self.alone[lane] for lane in lanes]
        self.base = [self.base[lane] for lane in lanes]

    def check(self) -> None:
        torch.testing.assert_close(self.weights, rows(self.alone), rtol=TOLERANCE, atol=TOLERANCE)
        for together, alone in zip(self.lanes, self.alone, strict=True):
            same_state(together.state_dict(), alone.state_dict())


def ordered(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def take_step(optimizer: Optimizer, gradient: Tensor) -> None:
    """A step of an ordinary optimizer with a flat gradient (P,)."""
    parameters = ordered(optimizer)
    for p, g in zip(parameters, Layout.of(parameters).lane_views(gradient[None], 0), strict=True):
        p.grad = g.clone()
    optimizer.step()


def rows(optimizers: list[Optimizer]) -> Tensor:
    return torch.stack([torch.cat([p.detach().flatten() for p in ordered(o)]) for o in optimizers])


def same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for number, state in other["state"].items():
        assert one["state"][number].keys() == state.keys()
        for key, value in state.items():
            found = one["state"][number][key]
            assert (found.dtype, found.shape, found.device) == (value.dtype, value.shape, value.device)
            # A mean of squares that all but vanished is no fraction of the others: compared by their size.
            size = float(value.abs().max()) if value.numel() else 0.0
            torch.testing.assert_close(found, value, rtol=TOLERANCE, atol=TOLERANCE * size)


@every_case
@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes
@given(data=st.data())
def test_lanes_go_as_they_would_alone(name: str, data: st.DataObject) -> None:
    pair = Pair(name, data.draw(numbers_of(name, 3)))
    pair.run(50)
    pair.packed.attach()
    pair.check()


@every_case
def test_state_is_taken_up_after_any_number_of_steps(name: str) -> None:
    pair = Pair(name, example_of(name), steps_before=[7, 0, 3])
    pair.packed.attach()
    pair.run(10)
    pair.check()


@every_case
def test_a_lane_goes_on_alone_from_what_the_pack_holds(name: str) -> None:
    pair = Pair(name, example_of(name))
    pair.run(7)
    pair.packed.attach()
    lane, alone = pair.lanes[1], pair.alone[1]
    kind, shared, _ = CASES[name]
    resumed = kind([nn.Parameter(p.detach().clone()) for p in ordered(lane)], **shared, **example_of(name)[1])
    resumed.load_state_dict(copy.deepcopy(lane.state_dict()))
    for _ in range(3):
        gradient = pair.gradients(1)[0]
        take_step(resumed, gradient)
        take_step(alone, gradient)
    torch.testing.assert_close(rows([resumed]), rows([alone]), rtol=TOLERANCE, atol=TOLERANCE)
    same_state(resumed.state_dict(), alone.state_dict())


@every_case
def test_kept_lanes_go_on_and_dropped_ones_stay_as_they_were(name: str) -> None:
    pair = Pair(name, example_of(name))
    pair.run(4)
    pair.packed.attach()
    dropped, before = pair.lanes[1], copy.deepcopy(pair.lanes[1].state_dict())
    pair.keep([2, 0])
    pair.run(4)
    pair.check()
    same_state(dropped.state_dict(), before)
    for state in dropped.state.values():
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in state.values())


@every_case
def test_a_lane_that_is_not_a_number_leaves_the_others_alone(name: str) -> None:
    pair = Pair(name, example_of(name))
    gradients = pair.gradients(3)
    gradients[1, ::2] = float("nan")
    for lane in range(3):
        pair.step_alone(lane, gradients[lane], 1.0)
    pair.step(pair.weights, gradients, torch.tensor(pair.base))
    held = [pair.weights, *(buffer for rule in pair.packed.rules for buffer in rule.buffers.values())]
    assert any(tensor[1].isnan().any() for tensor in held)  # the sign of what is no number is 0: Lion's weights stay
    assert all(tensor[[0, 2]].isfinite().all() for tensor in held)
    torch.testing.assert_close(pair.weights, rows(pair.alone), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        (name, "eager")
        for name in ("dampened", "nesterov", "adadelta", "rmsprop centered", "adamw", "gd", "lion", "muon")
    ]
    + [(name, "aot_eager") for name in ("adagrad", "rmsprop momentum", "adam amsgrad", "nadam", "radam")],
)
def test_a_step_is_one_graph(name: str, backend: str) -> None:
    # A branch on data or a wait for the device would break it.
    torch.compiler.reset()
    pair = Pair(name, example_of(name))
    pair.step = torch.compile(pair.packed.step, fullgraph=True, backend=backend)
    pair.run(8)
    pair.packed.attach()
    pair.check()


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step() -> None:
    torch.compiler.reset()
    pair = Pair("radam", example_of("radam"))
    pair.step = torch.compile(pair.packed.step, fullgraph=True)
    pair.run(20)
    pair.packed.attach()
    pair.check()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@every_case
def test_a_step_is_captured_as_a_cuda_graph(name: str) -> None:
    pair = Pair(name, example_of(name), device="cuda")
    rates, gradients = torch.tensor(pair.base, device="cuda"), pair.gradients(3)
    start, stream, graph = pair.weights.clone(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda.set_sync_debug_mode("error")
        try:
            pair.step(pair.weights, gradients, rates)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        pair.step(pair.weights, gradients, rates)
    graph.replay()
    assert not torch.equal(pair.weights, start)
    for lane in range(3):
        for _ in range(2):
            pair.step_alone(lane, gradients[lane], 1.0)
    torch.testing.assert_close(pair.weights, rows(pair.alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adam amsgrad", "adamw", "radam", "momentum"])
def test_blocks_of_lanes_and_fused_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adam, "FUSED_FROM", 1)
    monkeypatch.setattr(packed, "BLOCK", 2 * Layout(SHAPES).size)
    pair = Pair(name, example_of(name), steps_before=[0, 2, 1])
    assert len(pair.packed._blocks) == 2
    pair.run(20)
    pair.packed.attach()
    pair.check()


def test_the_state_is_looked_into_and_not_copied() -> None:
    pair = Pair("adam", example_of("adam"))
    pair.packed.attach()
    state = pair.lanes[2].state[ordered(pair.lanes[2])[0]]
    pair.run(3)
    assert float(state["step"]) == 3.0
    assert state["exp_avg"].abs().sum() > 0


def test_a_lane_dropped_before_it_was_attached_has_its_state() -> None:
    pair = Pair("adam", example_of("adam"))
    pair.run(3)
    pair.packed.keep([0, 2])
    same_state(pair.lanes[1].state_dict(), pair.alone[1].state_dict())


def test_lanes_without_momentum_hold_none() -> None:
    pair = Pair("momentum", [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}])
    pair.run(2)
    pair.packed.attach()
    assert len(pair.lanes[0].state) == 0
    assert len(pair.lanes[1].state) == len(SHAPES)
    pair.keep([1])
    pair.run(2)
    pair.check()


def test_another_rate_in_one_lane_is_noticed() -> None:
    pair = Pair("adam", example_of("adam"))
    pair.base[1] = [0.011]
    pair.lanes[1].param_groups[0]["lr"] = 0.011
    gradients = pair.gradients(3)
    for lane in range(3):
        take_step(pair.alone[lane], gradients[lane])
    pair.step(pair.weights, gradients, torch.tensor(pair.base))
    with pytest.raises(AssertionError):
        pair.check()


def parameters_of(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]


def of_two_ages() -> Optimizer:
    optimizer = Adam(parameters_of((2,), (3,)))
    first, second = ordered(optimizer)
    first.grad = torch.ones(2)
    optimizer.step()
    second.grad = torch.ones(3)
    optimizer.step()
    return optimizer


def half_moved() -> Optimizer:
    optimizer = SGD(parameters_of((2,), (3,)), momentum=0.9)
    ordered(optimizer)[0].grad = torch.ones(2)
    optimizer.step()
    return optimizer


TWO = ((2,), (3,))


@pytest.mark.parametrize(
    ("optimizers", "reason"),
    [
        (lambda: [LBFGS(parameters_of(*TWO))], "line search"),
        (lambda: [Rprop(parameters_of(*TWO))], "torch.optim.rprop.Rprop has no form for stacked tensors"),
        (lambda: [Adam(parameters_of(*TWO)), SGD(parameters_of(*TWO))], "different optimizers: Adam, SGD"),
        (
            lambda: [SGD(parameters_of(*TWO), momentum=0.9, nesterov=n) for n in (False, True)],
            "differ in the optimizer's nesterov: False and True",
        ),
        (lambda: [Adam(parameters_of(*TWO), amsgrad=a) for a in (False, True)], "amsgrad"),
        (lambda: [Adam(parameters_of(*TWO), differentiable=True)], "differentiable"),
        (lambda: [SGD(parameters_of(*TWO)), SGD(parameters_of((2,), (4,)))], "other shapes"),
        (lambda: [SGD(parameters_of((3,), (2,)))], "another order"),
        (lambda: [SGD(parameters_of((2,)))], "1 parameters, the stacked network 2"),
        (lambda: [SGD(parameters_of(*TWO)), SGD(parameters_of(*TWO, dtype=torch.float64))], "one floating-point type"),
        (lambda: [SGD(parameters_of(*TWO, dtype=torch.complex64))], "one floating-point type"),
        (lambda: [SGD([{"params": [p]} for p in parameters_of(*TWO)]), SGD(parameters_of(*TWO))], "groups"),
        (lambda: [of_two_ages()], "fewer steps"),
        (lambda: [half_moved()], "'momentum_buffer' for some parameters"),
    ],
)
def test_what_cannot_be_packed_says_why(optimizers: Callable[[], list[Optimizer]], reason: str) -> None:
    with pytest.raises(Unpackable, match=reason):
        pack(optimizers(), Layout(TWO))


def test_how_torch_would_compute_a_step_may_differ() -> None:
    lanes = [Adam(parameters_of(*TWO), fused=True), Adam(parameters_of(*TWO), foreach=False, lr=0.1)]
    assert len(pack(lanes, Layout(TWO)).rules) == 1


def test_every_configured_optimizer_is_packed_or_says_why() -> None:
    assert {case[0] for case in CASES.values()} == packed.RULES.keys()
