"""The compiled step against the eager one: with the real compiler twice, tiny; the rest with its tracer alone."""

from __future__ import annotations

import copy
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import family_cases
from dlrun.algorithms.accumulation import Accumulation
from dlrun.algorithms.adversarial import Adversarial
from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.build import check
from dlrun.config import compose
from dlrun.engines import compiled
from dlrun.engines.compiled import Compiled, WholeGradient, compile_forward, keep_programs, missing_compiler
from dlrun.engines.eager import Eager
from dlrun.errors import ConfigError
from dlrun.losses import MeanSquaredError
from dlrun.tasks.regression import Regression
from dlrun.training.precision import Precision
from tiny import FACTS, batches, make_updater

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = str(tmp_path_factory.getbasetemp() / "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", os.environ.get("TORCHINDUCTOR_CACHE_DIR", folder))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Programs are traced into a graph, as for the compiler, and the graph run by torch itself; what was traced."""
    compile_it, seen = torch.compile, []

    def trace(f: Any, options: Any = None, **more: Any) -> Any:
        seen.append(f)
        asked = {name: value for name, value in (options or {}).items() if name == "guard_filter_fn"}
        return compile_it(f, backend="eager", options=asked or None, **more)

    monkeypatch.setattr(torch, "compile", trace)
    return seen


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def backpropagation(model: nn.Module, precision: str = "float32") -> Backpropagation:
    updater = make_updater(model)
    if precision == "float16":
        updater = type(updater)(updater.optimizer, Precision(precision).scaler(CPU))
    return Backpropagation(
        model, Regression(MeanSquaredError(), FACTS, standardize=False), updater, Precision(precision)
    )


def trained(
    engine: Any, model: nn.Module, pieces: int = 1, precision: str = "float32", sizes: tuple[int, ...] = (10, 10, 6, 10)
) -> list[Tensor]:
    """Weights and buffers after steps of batches of these sizes."""
    algorithm: Any = backpropagation(copy.deepcopy(model), precision)
    model = algorithm.model
    if pieces > 1:
        algorithm = Accumulation(algorithm, algorithm.updater, pieces)
    step = engine.prepare(algorithm)
    for size in sizes:
        logs = step(next(batches(size, size).in_order()))
        assert logs["loss"].shape == ()
        assert not logs["loss"].requires_grad
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_traced_step_gives_the_eager_weights(network: nn.Module, pieces: int) -> None:
    for a, b in zip(trained(Eager(), network, pieces), trained(Compiled(), network, pieces), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_same_in_lower_precision(network: nn.Module, precision: str) -> None:
    pairs = zip(trained(Eager(), network, 1, precision), trained(Compiled(), network, 1, precision), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3)


@pytest.mark.usefixtures("traced")
def test_batch_statistics_are_kept() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    for a, b in zip(trained(Eager(), network), trained(Compiled(), network), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


class TwoHeads(nn.Module):
    """Its second head is never asked."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


@pytest.mark.usefixtures("traced")
def test_a_parameter_that_the_loss_does_not_reach_has_no_gradient() -> None:
    algorithm = backpropagation(TwoHeads())
    step = Compiled().prepare(algorithm)
    step(next(batches(10, 10).in_order()))
    assert [p.grad is None for p in algorithm.model.parameters()] == [False, False, True, True]
    assert isinstance(step, WholeGradient)
    assert step.program is not None


def test_only_whole_batches_are_compiled(network: nn.Module, traced: list[Any]) -> None:
    step = Compiled(batch_size=10).prepare(backpropagation(network))
    for _ in range(2):
        step(next(batches(6, 6).in_order()))
    assert not traced
    for _ in range(2):
        step(next(batches(10, 10).in_order()))
    assert len(traced) == 1


@pytest.mark.usefixtures("traced")
def test_each_network_has_a_program_of_its_own() -> None:
    """Their shapes and numbers are the same; dropout of nothing draws, so that no comparison would find it out."""
    for activation in (nn.ReLU(), nn.Tanh(), nn.Sigmoid(), *[nn.ELU() for _ in range(8)]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), activation, nn.Dropout(1e-9), nn.Linear(4, 1))
        eager = trained(Eager(), network)
        for a, b in zip(eager, trained(Compiled(), network), strict=True):
            torch.testing.assert_close(a, b)


class Broken(nn.Module):
    """In two pieces for the compiler."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        torch._dynamo.graph_break()
        return out.tanh()


@pytest.mark.usefixtures("traced")
def test_what_cannot_be_one_program_is_told_once_and_trained_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    model = Broken()
    eager = trained(Eager(), model)
    with caplog.at_level(logging.WARNING):
        found = trained(Compiled(), model)
    for a, b in zip(eager, found, strict=True):
        torch.testing.assert_close(a, b)
    assert sum("no one program" in record.message for record in caplog.records) == 1


def test_a_program_that_computes_something_else_is_thrown_away(
    monkeypatch: pytest.MonkeyPatch, network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(f: Any, **_: Any) -> Any:
        def program(weights: list[Tensor], slopes: list[Tensor], *rest: Any) -> Any:
            logs = f(weights, slopes, *rest)
            slopes[0].mul_(1.01)
            return logs

        return program if f.__name__ == "gradient" else f

    monkeypatch.setattr(torch, "compile", wrong)
    eager = trained(Eager(), network)
    with caplog.at_level(logging.WARNING):
        found = trained(Compiled(), network)
    assert "does not compute what the network computes" in caplog.text
    for a, b in zip(eager, found, strict=True):
        assert torch.equal(a, b)


def test_an_error_of_the_step_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> None:
    step = Compiled().prepare(backpropagation(network))
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    batch = next(batches(10, 10).in_order())
    step(batch)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        step((batch[0][:, :2], batch[1]))


@pytest.mark.usefixtures("traced")
def test_a_forward_pass_alone_is_compiled_for_an_engine_around_it(network: nn.Module) -> None:
    pair = backpropagation(copy.deepcopy(network)), backpropagation(copy.deepcopy(network))
    compile_forward(pair[1])
    batch = next(batches(10, 10).in_order())
    logs = [algorithm.step(batch) for algorithm in pair]
    assert torch.equal(logs[0]["loss"], logs[1]["loss"])
    for a, b in zip(pair[0].model.parameters(), pair[1].model.parameters(), strict=True):
        assert torch.equal(a, b)


FAMILIES = ["mlp", "cnn", "resnet", "vae", "transformer", "dlinear", "svm", "denoising", "autoencoder-pretrained"]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_trained_as_without_it(name: str, tmp_path: Path) -> None:
    series = tmp_path / "series.csv"
    series.write_text("a,b\n" + "\n".join(f"{i % 7},{i % 11}" for i in range(200)))
    experiment = family_cases.experiment(name, {"series": series})
    found = []
    for engine in (Eager(), Compiled(batch_size=family_cases.BATCH)):
        model = family_cases.model(experiment).train()
        algorithm = experiment.algorithm(model)
        step: Any = engine.prepare(algorithm)  # type: ignore[attr-defined]
        torch.manual_seed(1)
        for seed in range(3):
            step(family_cases.batch(experiment, seed))
        found.append([tensor.double() for tensor in model.state_dict().values()])
    assert getattr(step, "program", True) is not None
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_recurrent_layers_keep_their_kernel(caplog: pytest.LogCaptureFixture, traced: list[Any]) -> None:
    experiment = family_cases.experiment("lstm", {})
    algorithm = experiment.algorithm(experiment.model())
    with caplog.at_level(logging.WARNING):
        assert Compiled().prepare(algorithm) == algorithm.step
    assert "recurrent layers" in caplog.text
    assert not traced


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("normalised", [False, True])
def test_the_compiled_step_gives_the_eager_weights(network: nn.Module, normalised: bool) -> None:
    """Kernels are fused, so sums are rounded in another order: float32, four steps."""
    if normalised:
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, 1))
    step = Compiled().prepare(algorithm := backpropagation(copy.deepcopy(network)))
    assert isinstance(step, WholeGradient)
    for size in (10, 10, 6, 10):
        step(next(batches(size, size).in_order()))
    assert step.program is not None
    for a, b in zip(trained(Eager(), network), algorithm.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@needs_compiler
def test_dropout_is_drawn_anew_in_each_step() -> None:
    network = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    algorithm = backpropagation(network)
    algorithm.updater.set_factor(0.0)
    step = Compiled().prepare(algorithm)
    batch = next(batches(10, 10).in_order())
    losses = {round(float(step(batch)["loss"]), 6) for _ in range(4)}
    assert len(losses) == 4
    assert isinstance(step, WholeGradient)
    assert step.program is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_compiled_step_on_a_gpu(network: nn.Module) -> None:
    pair = copy.deepcopy(network).cuda(), copy.deepcopy(network).cuda()
    for engine, model in zip((Eager(), Compiled()), pair, strict=True):
        step = engine.prepare(backpropagation(model))
        for _ in range(4):
            step(tuple(part.cuda() for part in next(batches(10, 10).in_order())))  # type: ignore[arg-type]
    for a, b in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_mode_is_handed_on(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> None:
    seen: list[dict[str, Any]] = []

    def compile_it(f: Any, options: dict[str, Any], **_: Any) -> Any:
        seen.append(options)
        return f

    monkeypatch.setattr(torch, "compile", compile_it)
    trained(Compiled(mode="max-autotune"), network, sizes=(10,))
    assert seen[0]["max_autotune"]
    assert "triton.cudagraphs" not in seen[0]


def test_a_mode_that_captures_graphs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine\.mode=reduce-overhead: no such mode"):
        Compiled(mode="reduce-overhead")


def test_it_refuses_what_has_no_one_loss() -> None:
    assert "one loss" in Compiled().refusal(Adversarial, CPU)
    with pytest.raises(ConfigError, match=r"engine=compile with algorithm=contrastive_divergence: .*engine=eager"):
        check(compose(["model=rbm", "engine=compile", "trainer.device=cpu"]))


def test_a_missing_compiler_is_told_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, .*'no-such-compiler': .*engine=eager"):
        check(compose(["engine=compile", "trainer.device=cpu"]))


def test_a_gpu_needs_triton_and_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    assert "pip install triton" in missing_compiler(CUDA)
    monkeypatch.setattr(compiled, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "apt install gcc" in missing_compiler(CUDA)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert missing_compiler(CUDA) == ""


def test_programs_are_kept_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    keep_programs()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "dlrun" / "inductor")
    assert (tmp_path / "dlrun" / "inductor").stat().st_mode & 0o077 == 0


def test_a_folder_in_which_others_may_write_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dlrun" / "inductor").mkdir(parents=True)
    (tmp_path / "dlrun" / "inductor").chmod(0o777)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_a_home_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_programs()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
