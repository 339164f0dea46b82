"""What every ``configs/model/*.yaml`` must do; a model added as a YAML is tested by existing."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
BATCH, CLASSES = 6, 3

# Where the usual (3, 8, 8) will not do: the smallest images these take.
IN_SHAPES = {"lenet5": (1, 28, 28), "torchvision": (3, 32, 32)}
# The numbers the tests run with, smaller than the defaults where those cost time.
SMALLER: dict[str, dict[str, Any]] = {"resnet": {"depth": 8}, "torchvision": {"name": "shufflenet_v2_x0_5"}}
every_model = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_shape(name: str) -> tuple[int, ...]:
    return IN_SHAPES.get(name, (3, 8, 8))


def make(name: str, seed: int = 0, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    node = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text())
    node = node.get("model", node) | SMALLER.get(name, {})
    module, _, attribute = node.pop("_target_").rpartition(".")
    target = getattr(importlib.import_module(module), attribute)
    facts = {"in_shape": in_shape(name), "out_features": CLASSES, "activation": activation}
    taken = inspect.signature(target).parameters
    torch.manual_seed(seed)
    model: nn.Module = target(**node, **{key: value for key, value in facts.items() if key in taken})
    return model


def batch(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, *in_shape(name), generator=source), torch.arange(BATCH) % CLASSES


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def train(model: nn.Module, name: str, steps: int, lr: float = 2e-3) -> float:
    inputs, targets = batch(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_there_are_models() -> None:
    assert len(NAMES) >= 6


@every_model
def test_output_has_a_row_per_example_and_a_column_per_unit(name: str) -> None:
    assert make(name)(batch(name)[0]).shape == (BATCH, CLASSES)


@every_model
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(name: str) -> None:
    model = make(name)
    inputs, targets = batch(name)
    F.cross_entropy(model(inputs), targets).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@every_model
def test_overfits_one_batch(name: str) -> None:
    """6 examples of noise: chance is ln 3 = 1.1; below 0.1 within 100 steps of Adam."""
    assert train(make(name), name, steps=30 if name in ("torchvision", "resnet") else 100) < 0.1


@every_model
def test_saved_and_loaded_gives_the_same_bits(name: str) -> None:
    model, other = make(name), make(name, seed=1)
    train(model, name, steps=2)
    other.load_state_dict(bits(model))
    inputs, _ = batch(name, seed=1)
    assert torch.equal(model.eval()(inputs), other.eval()(inputs))


@every_model
def test_same_seed_same_bits(name: str) -> None:
    first, second, third = make(name), make(name), make(name, seed=1)
    assert same(bits(first), bits(second))
    assert not same(bits(first), bits(third))
    train(first, name, steps=2)
    train(second, name, steps=2)
    assert same(bits(first), bits(second))


@every_model
def test_evaluation_is_deterministic_and_changes_nothing(name: str) -> None:
    model = make(name).eval()
    before = bits(model)
    inputs, _ = batch(name)
    assert torch.equal(model(inputs), model(inputs))
    assert same(before, bits(model))


@every_model
def test_evaluation_of_one_example_does_not_depend_on_the_others(name: str) -> None:
    model = make(name).eval()
    inputs, _ = batch(name)
    torch.testing.assert_close(model(inputs[:1]), model(inputs)[:1], rtol=1e-4, atol=1e-5)


@every_model
def test_packs_under_vmap(name: str) -> None:
    """Two stacked models in training mode: losses, gradients and batch statistics equal those of separate runs."""
    models = [make(name, seed=seed).train() for seed in (0, 1)]
    inputs, targets = batch(name)
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type]
    base = make(name).to("meta")

    def loss_of(weights: dict[str, Tensor], statistics: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(base, (weights, statistics), (inputs,)), targets)

    losses = vmap(loss_of, randomness="different")(parameters, buffers)
    losses.sum().backward()
    for lane, model in enumerate(models):
        alone = F.cross_entropy(model(inputs), targets)
        alone.backward()
        torch.testing.assert_close(losses[lane], alone, rtol=1e-4, atol=1e-5)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[key].grad[lane], parameter.grad, rtol=1e-2, atol=1e-4, msg=key)
        for key, statistic in model.named_buffers():
            torch.testing.assert_close(buffers[key][lane], statistic, rtol=1e-4, atol=1e-5, msg=key)


@every_model
def test_builds_and_runs_without_numbers(name: str) -> None:
    """On ``meta`` any ``.item()`` or branch on data raises, so the forward pass waits for no device."""
    with torch.device("meta"):
        model = make(name)
        assert all(parameter.is_meta for parameter in model.parameters())
        outputs = model(torch.zeros(BATCH, *in_shape(name)))
    assert outputs.shape == (BATCH, CLASSES)
    outputs.sum().backward()


@every_model
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_as_a_cuda_graph(name: str) -> None:
    model = make(name).cuda().eval()
    inputs = batch(name)[0].cuda()
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = model(inputs)
        inputs.copy_(batch(name, seed=1)[0])
        graph.replay()
        torch.testing.assert_close(outputs, model(inputs), rtol=1e-4, atol=1e-4)
