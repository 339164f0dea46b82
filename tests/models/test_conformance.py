"""What every ``configs/model/*.yaml`` must do; a model added as a YAML is tested by existing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import family_cases as cases
from dlrun.build import Experiment
from dlrun.models.recurrent import Stateful
from dlrun.tasks.generation import Generation
from dlrun.training.evaluation import evaluation_mode
from dlrun.training.precision import Precision

every_model = pytest.mark.parametrize("name", cases.ALL)

# Steps that bring the loss of one batch below this share of what it is at the start; 0.1 within 100 steps is the rule.
STEPS = {"torchvision": 30, "resnet": 30, "dlinear": 300, "patch_transformer": 300}
CANCEL = {("gan-wasserstein", "discriminator.2.bias")}  # the same in both scores, whose difference is the loss
# So few weights cannot learn unrelated noise by heart; grey pixels as shares have an entropy of their own; a binary
# layer is sampled; logistic layers of the autoencoder learn slowly.
SHARE: dict[str, float] = {
    "srcnn": 0.7, "espcn": 0.4, "vae": 0.95, "rbm": 0.5, "rbm-persistent": 0.5, "autoencoder-pretrained": 0.9,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def experiment(name: str, family_files: dict[str, Path]) -> Experiment:
    return cases.experiment(name, family_files)


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def train(experiment: Experiment, model: nn.Module, steps: int) -> list[dict[str, float]]:
    """So many steps of the experiment's own algorithm on one batch."""
    algorithm = experiment.algorithm(model.train())
    one = cases.batch(experiment)
    return [{name: value.item() for name, value in algorithm.step(one).items()} for _ in range(steps)]


def loss_of(experiment: Experiment, model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    loss: Tensor = experiment.task.loss(model, batch)[0]  # type: ignore[attr-defined]
    return loss


def reason(experiment: Experiment, model: nn.Module) -> str:
    """Why trials with it do not pack; empty where they do."""
    return experiment.algorithm(model).unpackable or getattr(model, "unpackable", "")


def test_there_are_models() -> None:
    assert len(cases.NAMES) >= 24


@every_model
def test_an_output_for_each_example(name: str, experiment: Experiment) -> None:
    outputs = cases.model(experiment)(cases.batch(experiment)[0])
    assert outputs.reshape(cases.BATCH, *experiment.task.out_shape()).isfinite().all()


@every_model
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(name: str, experiment: Experiment) -> None:
    model = cases.model(experiment)
    if hasattr(experiment.task, "loss"):
        loss_of(experiment, model, cases.batch(experiment)).backward()
    else:
        train(experiment, model, 3)  # the generator may wait for three steps of the discriminator
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0 or (name, key) in CANCEL, key


@every_model
def test_overfits_one_batch(name: str, experiment: Experiment) -> None:
    logs = train(experiment, cases.model(experiment), STEPS.get(name, 100))
    if experiment.task.name == "generation":
        assert all(torch.tensor(list(row.values())).isfinite().all() for row in logs)
        return  # two networks against each other have no loss that falls; test_generation.py trains one to its goal
    key = "reconstruction" if experiment.task.name == "density" else "loss"
    assert logs[-1][key] < SHARE.get(name, 0.1) * logs[0][key]


@every_model
def test_saved_and_loaded_gives_the_same_bits(name: str, experiment: Experiment) -> None:
    model, other = cases.model(experiment), cases.model(experiment, seed=1)
    train(experiment, model, 2)
    other.load_state_dict(bits(model))
    inputs, _ = cases.batch(experiment, seed=1)
    assert torch.equal(model.eval()(inputs), other.eval()(inputs))


@every_model
def test_same_seed_same_bits(name: str, experiment: Experiment) -> None:
    first, second, third = cases.model(experiment), cases.model(experiment), cases.model(experiment, seed=1)
    assert same(bits(first), bits(second))
    if not same(bits(first), bits(third)):  # DLinear begins as a moving average, whatever the seed
        torch.manual_seed(0)
        train(experiment, first, 2)
        torch.manual_seed(0)
        train(experiment, second, 2)
        assert same(bits(first), bits(second))
    else:
        assert name == "dlinear"


@every_model
def test_evaluation_is_deterministic_and_changes_nothing(name: str, experiment: Experiment) -> None:
    model = cases.model(experiment).eval()
    before = bits(model)
    inputs, _ = cases.batch(experiment)
    assert torch.equal(model(inputs), model(inputs))
    assert same(before, bits(model))


@every_model
def test_evaluation_of_one_example_does_not_depend_on_the_others(name: str, experiment: Experiment) -> None:
    model = cases.model(experiment).eval()
    inputs, _ = cases.batch(experiment)
    torch.testing.assert_close(model(inputs[:1]), model(inputs)[:1], rtol=1e-4, atol=1e-5)


@every_model
def test_packs_under_vmap_or_says_why_not(name: str, family_files: dict[str, Path]) -> None:
    """Two stacked models in training mode: losses, gradients and batch statistics equal those of separate runs."""
    experiment = cases.experiment(name, family_files, "trainer.channels_last=false")  # as the lanes of a pack lie
    models = [cases.model(experiment, seed=seed).train() for seed in (0, 1)]
    why = reason(experiment, models[0])
    if why:
        assert len(why.split()) > 4
        return
    inputs, targets = cases.batch(experiment)
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]
    base = cases.model(experiment).to("meta")

    def loss_in_lane(weights: dict[str, Tensor], statistics: dict[str, Tensor]) -> Tensor:
        return loss_of(experiment, _Lane(base, weights, statistics), (inputs, targets))

    torch.manual_seed(0)
    losses = vmap(loss_in_lane, randomness="same")(parameters, buffers)
    losses.sum().backward()
    for lane, model in enumerate(models):
        torch.manual_seed(0)
        alone = loss_of(experiment, model, (inputs, targets))
        alone.backward()
        torch.testing.assert_close(losses[lane], alone, rtol=1e-4, atol=1e-5)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[key].grad[lane], parameter.grad, rtol=1e-2, atol=1e-4, msg=key)
        for key, statistic in model.named_buffers():
            torch.testing.assert_close(buffers[key][lane], statistic, rtol=1e-4, atol=1e-5, msg=key)


class _Lane:
    """A model called with the weights of one lane; a task may call its methods too."""

    def __init__(self, base: nn.Module, weights: dict[str, Tensor], statistics: dict[str, Tensor]) -> None:
        self.base, self.state = base, (weights, statistics)

    def __call__(self, *inputs: Any) -> Any:
        return functional_call(self.base, self.state, inputs)

    def __getattr__(self, method: str) -> Any:
        value = getattr(self.base, method)
        if not callable(value):
            return value
        return lambda *inputs: functional_call(_Method(self.base, method), _prefixed(self.state), inputs)


class _Method(nn.Module):
    """One method of a model as a module of its own, so that ``functional_call`` can reach it."""

    def __init__(self, base: nn.Module, method: str) -> None:
        super().__init__()
        self.base, self.method = base, method

    def forward(self, *inputs: Any) -> Any:
        return getattr(self.base, self.method)(*inputs)


def _prefixed(state: tuple[dict[str, Tensor], dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    weights, statistics = ({f"base.{key}": value for key, value in part.items()} for part in state)
    return weights, statistics


@every_model
def test_measured_in_lower_precision_too(name: str, experiment: Experiment) -> None:
    """A step and a whole evaluation under bfloat16: no mixed types, and every metric a number."""
    lower = Precision("bfloat16")
    model, task = cases.model(experiment), experiment.task
    one = cases.batch(experiment)
    sequence = one[1].flatten(0, 1) if task.name in ("language_modelling", "forecasting") else one[1]
    task.fit(sequence, lambda: [one])
    if isinstance(task, Generation) and experiment.facts.kind == "image":
        task.use_features(lambda images: images.float().flatten(1)[:, ::8])  # in place of a trained classifier's
    replace(experiment, precision=lower).algorithm(model.train()).step(one)
    with evaluation_mode(model), lower.autocast(torch.device("cpu")):
        found = task.measure(experiment.viewed(model), [one], "test")
    values = {key: float(value) for key, value in found.metrics.items()}
    assert set(task.metric_names()) - {"auroc"} <= set(values)
    assert all(math.isfinite(value) for value in values.values()), values


@every_model
def test_builds_and_runs_without_numbers(name: str, experiment: Experiment) -> None:
    """On ``meta`` any ``.item()`` or branch on data raises, so the forward pass waits for no device."""
    with torch.device("meta"):
        model = cases.model(experiment)
        assert all(parameter.is_meta for parameter in model.parameters())
    inputs = cases.batch(experiment)[0].to("meta")
    assert model(inputs).reshape(cases.BATCH, *experiment.task.out_shape()).is_meta


@every_model
def test_a_state_that_is_carried_starts_anew(name: str, experiment: Experiment) -> None:
    """Where evaluation carries a state from batch to batch, every evaluation begins without one."""
    if not experiment.consecutive:
        assert experiment.viewed(model := cases.model(experiment)) is model
        return
    model, (inputs, _) = cases.model(experiment).eval(), cases.batch(experiment)
    carried = experiment.viewed(model)
    assert isinstance(carried, Stateful)
    first, second = carried(inputs), carried(inputs)
    assert not torch.equal(first, second)
    assert torch.equal(experiment.viewed(model)(inputs), first)


@every_model
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_as_a_cuda_graph(name: str, experiment: Experiment) -> None:
    model = cases.model(experiment).cuda().eval()
    inputs = cases.batch(experiment)[0].cuda()
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = model(inputs)
        inputs.copy_(cases.batch(experiment, seed=1)[0])
        graph.replay()
        torch.testing.assert_close(outputs, model(inputs), rtol=1e-4, atol=1e-4)
