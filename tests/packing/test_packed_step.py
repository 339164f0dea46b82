"""One step of all lanes: clipping, averages, rates and what is dropped, each as the run's own Updater has it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.losses import MeanSquaredError
from dlrun.packing import gradient as gradient_module
from dlrun.packing.flat import Unpackable
from dlrun.packing.gradient import PackedBatch
from dlrun.packing.step import PackedStep, clip_norms, clip_values
from dlrun.tasks.regression import Regression
from dlrun.training.average import Average, ExponentialAverage, NoAverage
from dlrun.training.precision import Precision
from dlrun.training.updater import Clip, ClipByNorm, ClipByValue, Updater
from tiny import FACTS

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.1, "momentum": 0.5},
    {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    {"lr": 0.3, "momentum": 0.0},
]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def algorithms(clips: list[tuple[Clip, ...]] | None = None, scaler: bool = False) -> list[Backpropagation]:
    torch.manual_seed(0)
    made = []
    for lane, settings in enumerate(SETTINGS):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), **settings)
        updater = Updater(optimizer, torch.amp.GradScaler("cpu", enabled=scaler), clips[lane] if clips else ())
        task = Regression(MeanSquaredError(), FACTS, standardize=False)
        made.append(Backpropagation(model, task, updater, Precision()))
    return made


def batches(count: int, lanes: int = 3) -> list[PackedBatch]:
    return [PackedBatch(torch.randn(lanes, 6, 3), torch.randn(lanes, 6, 1), shared=False) for _ in range(count)]


def weights(algorithm: Backpropagation) -> Tensor:
    return torch.cat([p.detach().flatten() for p in algorithm.updater.parameters])


def averages(lanes: list[Backpropagation], decays: list[float]) -> list[Average]:
    return [ExponentialAverage(lane.model, decay) for lane, decay in zip(lanes, decays, strict=True)]


@pytest.mark.parametrize(
    "clips",
    [
        None,
        [(ClipByNorm(0.1),), (ClipByNorm(1.0),), (ClipByNorm(100.0),)],
        [(ClipByValue(0.01),), (ClipByValue(0.1),), (ClipByValue(10.0),)],
        [(ClipByNorm(0.5), ClipByValue(0.02))] * 3,
    ],
)
@pytest.mark.parametrize("compiles", [False, True])
def test_a_step_is_that_of_every_lane_alone(
    clips: list[tuple[Clip, ...]] | None, compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)  # compilation itself takes seconds
    monkeypatch.setattr(gradient_module, "COMPILED_AT", 2)
    alone, packed = algorithms(clips), algorithms(clips)
    decays = [0.9, 0.5, 0.99]
    expected, found = averages(alone, decays), averages(packed, decays)
    step = PackedStep(packed, found)
    step.gradient.compiles = compiles
    generators = [torch.Generator() for _ in alone]
    for number, batch in enumerate(batches(6)):
        factors = (1.0, 0.5**number, 0.1 * number)
        logs = step(batch, factors, generators)
        for lane, algorithm in enumerate(alone):
            algorithm.updater.set_factor(factors[lane])
            wanted = algorithm.step(batch.of(lane))
            expected[lane].update()
            torch.testing.assert_close(logs["loss"][lane], wanted["loss"], rtol=1e-5, atol=1e-7)
    assert bool(step.gradient.programs) == compiles
    for lane in range(3):
        torch.testing.assert_close(weights(packed[lane]), weights(alone[lane]), rtol=1e-5, atol=1e-7)
        mine, theirs = expected[lane].state_dict(), found[lane].state_dict()
        torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-7)
        # They see the last gradient, which is what a logged row measures.
        norm = packed[lane].updater.gradient_norm()
        torch.testing.assert_close(norm, alone[lane].updater.gradient_norm(), rtol=1e-5, atol=1e-7)
        one, other = (side[lane].updater.state_dict()["optimizer"]["state"] for side in (alone, packed))
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


def test_an_optimizer_that_does_not_compile_steps_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(program: Any, **_: Any) -> Any:
        def failing(*_: Any) -> None:
            raise RuntimeError("BackendCompilerFailed: planted")

        return failing if program.__name__ == "step" else program

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(gradient_module, "COMPILED_AT", 2)
    alone, packed = algorithms(), algorithms()
    step = PackedStep(packed, [NoAverage()] * 3)
    step.gradient.compiles = True
    for batch in batches(4):
        step(batch, (1.0, 1.0, 1.0), None)
        for lane, algorithm in enumerate(alone):
            algorithm.step(batch.of(lane))
    assert not step.gradient.compiles
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=1e-5, atol=1e-7)


def test_before_the_first_step_a_lane_is_as_new() -> None:
    packed = algorithms()
    PackedStep(packed, [NoAverage()] * 3)
    for algorithm in packed:
        assert all(p.grad is None for p in algorithm.updater.parameters)
        assert algorithm.updater.state_dict()["optimizer"]["state"] == {}


def test_dropped_lanes_keep_what_they_had_and_the_others_go_on() -> None:
    alone, packed = algorithms(), algorithms()
    decays = [0.9, 0.5, 0.99]
    expected, found = averages(alone, decays), averages(packed, decays)
    step = PackedStep(packed, found)
    for batch in batches(3):
        step(batch, (1.0, 1.0, 1.0), None)
        for lane, algorithm in enumerate(alone):
            algorithm.step(batch.of(lane))
            expected[lane].update()
    before = copy.deepcopy(packed[1].updater.state_dict())
    averaged = copy.deepcopy(found[1].state_dict())
    step.keep([0, 2])
    assert len(step) == 2
    for batch in batches(3, lanes=2):
        step(batch, (1.0, 0.5), None)
        for place, lane in enumerate((0, 2)):
            alone[lane].updater.set_factor((1.0, 0.5)[place])
            alone[lane].step(batch.of(place))
            expected[lane].update()
    for lane in range(3):
        torch.testing.assert_close(weights(packed[lane]), weights(alone[lane]), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found[lane].state_dict(), expected[lane].state_dict(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(packed[1].updater.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(found[1].state_dict(), averaged, rtol=0, atol=0)


def test_gradients_are_clipped_as_torch_does() -> None:
    gradients = torch.randn(4, 50) * torch.tensor([[0.0], [0.1], [1.0], [100.0]])
    limits = torch.tensor([1.0, 0.5, 2.0, 3.0])
    for packed, usual in (
        (clip_norms, nn.utils.clip_grad_norm_),
        (clip_values, nn.utils.clip_grad_value_),
    ):
        found = gradients.clone()
        packed(found, limits[:, None])
        for lane, limit in enumerate(limits.tolist()):
            parameter = nn.Parameter(torch.zeros(50))
            parameter.grad = gradients[lane].clone()
            usual([parameter], limit)
            torch.testing.assert_close(found[lane], parameter.grad)


def test_what_has_no_packed_step_is_refused_before_anything_has_changed() -> None:
    class Own(Backpropagation):
        """Another step than gradient descent's."""

    def refused(made: list[Backpropagation], held: list[Average], reason: str) -> None:
        before = [p.data_ptr() for algorithm in made for p in algorithm.updater.parameters]
        with pytest.raises(Unpackable, match=reason):
            PackedStep(made, held)
        assert [p.data_ptr() for algorithm in made for p in algorithm.updater.parameters] == before

    none: list[Average] = [NoAverage()] * 3
    made = algorithms()
    own = Own(made[0].model, made[0].task, made[0].updater, Precision())
    refused([own, *made[1:]], none, "Own has no packed form")
    refused(algorithms(scaler=True), none, "precision=fp16 leaves out steps")
    refused(algorithms([(ClipByNorm(1.0),), (), ()]), none, "some trials clip")
    refused(algorithms([(print,)] * 3), none, "clipped in a way")
    refused(made, [NoAverage(), *averages(made[1:], [0.5, 0.5])], r"some trials average .*trainer\.ema")
