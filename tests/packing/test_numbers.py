"""What may differ within a pack: which keys of a configuration, and what a lane then computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.func import stack_module_state, vmap
from torch.nn import functional as F

import family_cases as cases
from dlrun.build import Experiment, check, make_task
from dlrun.config import compose
from dlrun.packing.flat import Unpackable
from dlrun.packing.formulas import FORMULAS
from dlrun.packing.lifted import Lifted
from dlrun.packing.numbers import Number, differing
from dlrun.packing.randomness import Replay, rehearse
from stacked import Lane

SMALL = ["model=mlp", "model.hidden=[6]"]
TWO = [*SMALL, "data=breast_cancer"]
VAE = ["model=vae", "model.hidden=[8]", "model.code=3"]
ENCODER = ["model=transformer_encoder", "model.width=8"]
DENOISING = ["model=denoising", "model.hidden=[8]", "model.code=4"]
# Words that all trials share, and the one in which they differ: these pack.
PACKS: dict[str, tuple[list[str], list[str]]] = {
    "seed": (SMALL, ["trainer.seed=0", "trainer.seed=1"]),
    "model.dropout": (SMALL, ["model.dropout=0.1", "model.dropout=0.5", "model.dropout=0.9"]),
    "model.dropout of a recurrent network": (
        ["model=lstm", "model.hidden=6", "model.layers=2"],
        ["model.dropout=0", "model.dropout=0.5"],
    ),
    "model.dropout of a transformer": (ENCODER, ["model.dropout=0.0", "model.dropout=0.1", "model.dropout=0.4"]),
    "loss.label_smoothing": (
        [*SMALL, "loss=cross_entropy"],
        ["loss.label_smoothing=0", "loss.label_smoothing=0.1", "loss.label_smoothing=0.3"],
    ),
    "loss.label_smoothing of two classes": (
        [*TWO, "loss=bce"],
        ["loss.label_smoothing=0.0", "loss.label_smoothing=0.2"],
    ),
    "loss.class_weights": (
        [*TWO, "loss=cross_entropy"],
        ["loss.class_weights=[1.0,2.0]", "loss.class_weights=[0.3,1.0]"],
    ),
    "loss.class_weights and label_smoothing": (
        [*TWO, "loss=cross_entropy"],
        [
            "loss.class_weights=[1.0,2.0] loss.label_smoothing=0.2",
            "loss.class_weights=[1.0,5.0] loss.label_smoothing=0.4",
        ],
    ),
    "loss.gamma": ([*TWO, "loss=focal"], ["loss.gamma=0", "loss.gamma=2", "loss.gamma=3.5"]),
    "loss.gamma, whole numbers": ([*SMALL, "loss=focal"], ["loss.gamma=1", "loss.gamma=2"]),
    "loss.delta": (
        ["model=mlp", "model.hidden=[6]", "data=diabetes", "loss=huber"],
        ["loss.delta=0.1", "loss.delta=1", "loss.delta=9"],
    ),
    "task.kl_weight": (VAE, ["task.kl_weight=0", "task.kl_weight=1", "task.kl_weight=4"]),
    "task.amount of masking": (DENOISING, ["task.amount=0.1", "task.amount=0.5", "task.amount=1"]),
    "task.amount of gaussian": ([*DENOISING, "task.corruption=gaussian"], ["task.amount=0.1", "task.amount=2"]),
    "task.amount of salt_pepper": ([*DENOISING, "task.corruption=salt_pepper"], ["task.amount=0.1", "task.amount=0.4"]),
    "task.C": (["model=svm", "data=breast_cancer"], ["task.C=1", "task.C=10", "task.C=0.1"]),
    "model.gamma": (["model=svm_gaussian", "model.components=9"], ["model.gamma=0.1", "model.gamma=0.01"]),
    "model.gamma, whole numbers": (["model=svm_gaussian", "model.components=9"], ["model.gamma=1", "model.gamma=2"]),
    "model.input_dropout": (
        ["model=dbn", "algorithm=backpropagation", "model.hidden=[8,6]"],
        ["model.input_dropout=0", "model.input_dropout=0.3"],
    ),
    "activation.negative_slope": (
        [*SMALL, "activation=leaky_relu"],
        ["activation.negative_slope=0.01", "activation.negative_slope=0.2"],
    ),
    "activation.alpha of elu": ([*SMALL, "activation=elu"], ["activation.alpha=1", "activation.alpha=0.5"]),
    "activation.alpha of celu": ([*SMALL, "activation=celu"], ["activation.alpha=1", "activation.alpha=0.5"]),
    "activation.beta of softplus": ([*SMALL, "activation=softplus"], ["activation.beta=1", "activation.beta=3"]),
    "activation.lambd of hardshrink": (
        [*SMALL, "activation=hardshrink"],
        ["activation.lambd=0.1", "activation.lambd=0.5"],
    ),
    "activation.lambd of softshrink": (
        [*SMALL, "activation=softshrink"],
        ["activation.lambd=0.1", "activation.lambd=0.5"],
    ),
    "activation.init of prelu": ([*SMALL, "activation=prelu"], ["activation.init=0.25", "activation.init=0.1"]),
    "the optimizer": (SMALL, ["optimizer=adam", "optimizer=sgd"]),  # not a part of the forward pass
}
# These do not, and what the refusal says.
REFUSED: dict[str, tuple[list[str], list[str], str]] = {
    "model.hidden": (["model=mlp"], ["model.hidden=[6]", "model.hidden=[7]"], "model.hidden"),
    "depth": (["model=mlp"], ["model.hidden=[6]", "model.hidden=[6,6]"], "model.hidden"),
    "dropout or none": (SMALL, ["model.dropout=0", "model.dropout=0.5"], "model.hidden"),
    "model.batch_norm": (SMALL, ["model.batch_norm=true", "model.batch_norm=false"], "model.hidden"),
    "model": ([], ["model=mlp", "model=perceptron"], "model.*MLP and Perceptron"),
    "activation": (SMALL, ["activation=relu", "activation=tanh"], "ReLU and Tanh"),
    "approximate": (
        [*SMALL, "activation=gelu"],
        ["activation.approximate=none", "activation.approximate=tanh"],
        "tanh",
    ),
    "model.kernel": (
        ["model=dlinear", *cases.OVERRIDES["dlinear"]],
        ["model.kernel=25", "model.kernel=5"],
        "model.kernel",
    ),
    "nonlinearity": (["model=rnn"], ["model.nonlinearity=tanh", "model.nonlinearity=relu"], "model.stack"),
    "pool": (["model=rnn"], ["model.pool=last", "model.pool=mean"], "model.readout.pool.*last and mean"),
    "loss": (SMALL, ["loss=cross_entropy", "loss=focal"], "loss.* CrossEntropy and Focal"),
    "loss.power": (TWO, ["loss=hinge", "loss=squared_hinge"], "loss.power.*1 and 2"),
    "weights or none": (
        [*TWO, "loss=cross_entropy"],
        ["loss.class_weights=null", "loss.class_weights=[1.0,2.0]"],
        "loss.class_weights",
    ),
    "corruption": (
        DENOISING,
        ["task.corruption=masking", "task.corruption=gaussian"],
        "task.corruption.*masking and gauss",
    ),
    "binarize": (VAE, ["task.binarize=true", "task.binarize=false"], "task.binarize.*True and False"),
    "standardize": (
        ["data=diabetes", "task=regression"],
        ["task.standardize=true", "task.standardize=false"],
        "task.standardize",
    ),
    "data": ([], ["data=digits", "data=wine"], "model"),
}


@dataclass
class Pack:
    """Experiments that differ in one thing, and each one's network."""

    experiments: list[Experiment]
    models: list[nn.Module]

    @property
    def lanes(self) -> list[tuple[Any, ...]]:
        return [(model, run.task) for model, run in zip(self.models, self.experiments, strict=True)]


@cache
def composed(words: tuple[str, ...]) -> DictConfig:
    return compose([*words, "trainer.device=cpu"])


def configured(shared: tuple[str, ...], differ: Sequence[str]) -> DictConfig:
    """As ``compose`` of all words; a value inside of a group is set without composing anew, which takes longer."""
    values = [word.split("=") for word in differ]
    if any("." not in key or key.startswith("+") for key, _ in values):
        return composed((*shared, *differ))
    config = copy.deepcopy(composed(shared))
    for key, value in values:
        OmegaConf.update(config, key, OmegaConf.create(f"x: {value}").x)
    return config


def pack(shared: Sequence[str], differ: Sequence[str], files: dict[str, Path]) -> Pack:
    words = tuple(word.format(**files) for word in shared)
    experiments = [check(configured(words, extra.split())) for extra in differ]
    models = []
    for seed, experiment in enumerate(experiments):
        torch.manual_seed(seed)
        models.append(experiment.model().train())
    return Pack(experiments, models)


def losses_and_slopes(found: Pack, numbers: list[Number]) -> tuple[Tensor, list[Tensor], list[Any]]:
    """The packed losses, the gradients (K, ...), and what each lane's loss was when it ran alone."""
    batch = cases.batch(found.experiments[0])
    tasks: list[Any] = [experiment.task for experiment in found.experiments]
    sources = [torch.Generator().manual_seed(lane) for lane in range(len(tasks))]
    template = cases.model(found.experiments[0]).train()
    alone = [lambda m=m, t=t: t.loss(m, batch)[0] for m, t in zip(found.models, tasks, strict=True)]
    plan, values = rehearse(alone, found.models, sources)
    lifted = Lifted((template, tasks[0]), numbers)
    weights, buffers = stack_module_state(found.models)  # type: ignore[arg-type]

    def one(*given: Any) -> Tensor:
        own, statistics, lane, noise = given
        with lifted.put(lane), Replay(plan, noise, lifted.formulas):
            loss: Tensor = tasks[0].loss(Lane(template, (own, statistics)), batch)[0]
        return loss

    losses = vmap(one, randomness="error")(weights, buffers, lifted.values(), plan.draw(sources))
    return losses, list(torch.autograd.grad(losses.sum(), list(weights.values()))), values


@pytest.mark.parametrize("name", PACKS)
def test_trials_that_differ_in_this_pack(name: str, family_files: dict[str, Path]) -> None:
    """Losses and gradients are those of each trial alone."""
    found = pack(*PACKS[name], family_files)
    numbers = differing(found.lanes)
    key = name.split(" ")[0].rstrip(",")
    assert key in {number.key for number in numbers} or key in ("seed", "activation.init", "the")
    losses, slopes, values = losses_and_slopes(found, numbers)
    torch.testing.assert_close(losses, torch.stack(values), rtol=1e-6, atol=1e-6)
    assert any(not torch.equal(slope[0], slope[1]) for slope in slopes) or name == "the optimizer"
    for lane, (experiment, model) in enumerate(zip(found.experiments, found.models, strict=True)):
        torch.manual_seed(lane)
        experiment.task.loss(model, cases.batch(experiment))[0].backward()  # type: ignore[attr-defined]
        for slope, parameter in zip(slopes, model.parameters(), strict=True):
            torch.testing.assert_close(slope[lane], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_trials_that_differ_in_this_do_not(name: str, family_files: dict[str, Path]) -> None:
    shared, differ, message = REFUSED[name]
    with pytest.raises(Unpackable, match=message):
        differing(pack(shared, differ, family_files).lanes)


@pytest.mark.parametrize("name", cases.ALL)
def test_two_seeds_of_every_family_differ_in_no_number(name: str, family_files: dict[str, Path]) -> None:
    chosen = cases.experiment(name, family_files)
    tasks = [make_task(chosen.node, chosen.facts, chosen.trusted)[1] for _ in range(2)]
    lanes = [(cases.model(chosen, seed), task) for seed, task in enumerate(tasks)]
    assert differing(lanes) == []


def test_a_number_that_torch_takes_alone_is_refused_with_its_key(family_files: dict[str, Path]) -> None:
    found = pack([*SMALL, "activation=hardtanh"], ["+activation.min_val=-1", "+activation.min_val=-2"], family_files)
    numbers = differing(found.lanes)
    with pytest.raises(RuntimeError) as failure:
        losses_and_slopes(found, numbers)
    refusal = Lifted((found.models[0], found.experiments[0].task), numbers).refusal(failure.value)
    assert str(refusal).startswith("trials that differ in activation.min_val do not pack: ")


def test_batch_normalisation_takes_one_momentum() -> None:
    with pytest.raises(Unpackable, match=r"network\.momentum is a number that torch's normalisation takes once"):
        differing([(nn.BatchNorm1d(3, momentum=m),) for m in (0.1, 0.2)], names=["network"])


class Part:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


def test_objects_that_hold_each_other_are_walked_once() -> None:
    lanes = []
    for rate in (0.1, 0.2):
        inner = Part(rate=rate)
        outer = Part(inner=inner, again=inner, row=[1, {"deep": (inner,)}])
        inner.outer = outer  # type: ignore[attr-defined]
        lanes.append((outer,))
    assert differing(lanes, ["task"]) == [Number("task.inner.rate", (0, "inner", "rate"), (0.1, 0.2))]


def test_an_object_shared_in_one_trial_alone_is_refused() -> None:
    shared = Part(rate=0.1)
    with pytest.raises(Unpackable, match="uses in two places"):
        differing([(Part(a=shared, b=shared),), (Part(a=Part(rate=0.2), b=Part(rate=0.3)),)], ["task"])


def scaled(factor: float) -> Any:
    return lambda x: x * factor


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (1, 2, "1 and 2"),
        (True, False, "True and False"),
        (True, 0.5, "True and 0.5"),
        ("a", "b", "a and b"),
        (None, 0.1, "None and 0.1"),
        ([1.0], [1.0, 2.0], "task.value"),
        ({"a": 1.0}, {"b": 1.0}, "task.value"),
        (torch.ones(2), torch.ones(3), r"a tensor \(2,\) and a tensor \(3,\)"),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), "task.value"),
        (nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2)), "a weight outside of the network"),
        (torch.relu, torch.tanh, "task.value"),
        (scaled(2.0), scaled(3.0), "task.value"),
        (partial(max, 1), partial(max, 2), "task.value.args.0"),
        ((0.0, 1.0), (0.0, 2.0), "they pack where they share their data"),
        (object(), object(), "task.value"),
        ([1.0, (float("nan"),)], [1.0, (0.5,)], "task.value.1.0"),
    ],
)  # fmt: skip
def test_differences_that_are_no_numbers(first: Any, second: Any, message: str) -> None:
    with pytest.raises(Unpackable, match=message):
        differing([(Part(value=first),), (Part(value=second),)], ["task"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1.0, 1.0),
        (float("nan"), float("nan")),
        (torch.device("cpu"), torch.device("cpu")),
        (Path("a"), Path("a")),
        (scaled(2.0), scaled(2.0)),
        (Part().__init__, Part().__init__),
        ((torch.ones(2), "a"), (torch.ones(2), "a")),
        (SimpleNamespace(a=[1, torch.zeros(1)]), SimpleNamespace(a=[1, torch.zeros(1)])),
    ],
)  # fmt: skip
def test_the_same_twice_is_no_difference(first: Any, second: Any) -> None:
    assert differing([(Part(value=first),), (Part(value=second),)], ["task"]) == []


def test_numbers_in_lists_and_mappings_are_lifted_and_put_back() -> None:
    lanes = [(Part(row=[0.5, rate], named={"x": rate}, weights=torch.full((2,), rate)),) for rate in (1.0, 2.0)]
    numbers = differing(lanes, ["task"])
    assert [number.key for number in numbers] == ["task.row.1", "task.named.x", "task.weights"]
    template = Part(row=[0.5, 7.0], named={"x": 7.0}, weights=torch.zeros(2))
    lifted = Lifted((template,), numbers)

    def total(values: Sequence[Tensor]) -> Tensor:
        with lifted.put(values):
            return template.row[0] + template.row[1] * template.named["x"] + template.weights.sum()  # type: ignore[attr-defined,no-any-return]

    assert vmap(total)(lifted.values()).tolist() == [0.5 + 1 + 2, 0.5 + 4 + 4]
    lifted.keep([1])
    assert vmap(total)(lifted.values()).tolist() == [0.5 + 4 + 4]
    with pytest.raises(ZeroDivisionError), lifted.put(lifted.values()):
        _ = 1 / 0
    assert (template.row, template.named, template.weights.tolist()) == ([0.5, 7.0], {"x": 7.0}, [0.0, 0.0])  # type: ignore[attr-defined]


GRID = torch.cat([torch.linspace(-4, 4, 41), torch.tensor([0.0, 100.0, -100.0])])


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (F.leaky_relu, [0.0, 0.01, 1.5]),
        (F.elu, [0.5, 1.0, 2.0]),
        (F.celu, [0.5, 1.0, 2.0]),
        (F.hardshrink, [0.0, 0.5, 2.0]),
        (F.softshrink, [0.0, 0.5, 2.0]),
        (F.softplus, [0.5, 1.0, 7.0]),
    ],
)
def test_formulas_equal_torchs_functions(function: Any, values: list[float]) -> None:
    formula = FORMULAS[function]
    for value in values:
        inputs = [GRID.clone().requires_grad_(), GRID.clone().requires_grad_()]
        ours, torchs = formula(inputs[0], torch.tensor(value)), function(inputs[1], value)
        torch.testing.assert_close(ours, torchs)
        assert torch.equal(formula(GRID, value), function(GRID, value))  # a float is torch's own
        ours.sum().backward()
        torchs.sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(7, 4), (5, 4, 3)])
def test_smoothed_cross_entropy_equals_torchs(shape: tuple[int, ...], weighted: bool, reduction: str) -> None:
    outputs = torch.randn(shape, requires_grad=True)
    targets = torch.randint(4, (shape[0], *shape[2:]))
    targets[0] = -100  # left out, as padding is
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0]) if weighted else None
    for smoothing in (0.0, 0.1, 0.9):
        given: dict[str, Any] = {"weight": weight, "reduction": reduction}
        ours = FORMULAS[F.cross_entropy](outputs, targets, label_smoothing=torch.tensor(smoothing), **given)
        torchs = F.cross_entropy(outputs, targets, label_smoothing=smoothing, **given)
        torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-6)
        both = [torch.autograd.grad(loss.sum(), outputs)[0] for loss in (ours, torchs)]
        torch.testing.assert_close(*both, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_huber_equals_torchs(reduction: str) -> None:
    outputs, targets = torch.randn(6, 2) * 3, torch.randn(6, 2)
    for delta in (0.1, 1.0, 5.0):
        ours = FORMULAS[F.huber_loss](outputs, targets, reduction=reduction, delta=torch.tensor(delta))
        torch.testing.assert_close(ours, F.huber_loss(outputs, targets, reduction=reduction, delta=delta))
