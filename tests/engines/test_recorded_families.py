"""Every family, optimizer, precision and algorithm through recordings, against the same run as it is written.

On the CPU ``tape.Tape`` stands in for CUDA graphs: it repeats kernels with Python frozen, so that what a graph would
get wrong is wrong here. The tests marked gpu do the same with the graphs themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import family_cases as cases
from dlrun.build import Experiment, check
from dlrun.config import compose, config_dir
from dlrun.data.augment import Augment
from dlrun.engines.recording import CudaRecorder
from dlrun.training.average import ExponentialAverage
from graphed import Run, with_optimizer
from tape import Tape
from tiny import Halving

SHORTER = {"resnet", "torchvision", "srcnn", "espcn", "dcgan", "gru-series", "autoencoder", "vit"}  # 30 steps, not 50
EXACT = 2.0**-8  # a rate that float32 holds, so that a rate in a tensor is the same number
OPTIMIZERS = sorted(path.stem for path in (config_dir() / "optimizer").glob("*.yaml"))
# Each with a layer of the loop around it: schedule, clipping, moving average, statistics of batches.
VARIANTS: dict[str, list[str]] = {
    "accumulated": ["model=mlp", "trainer.accumulate=2"],
    "clipped": ["model=cnn", "model.batch_norm=true", "trainer.clip_norm=0.1", "optimizer=momentum"],
    "clipped-by-value": ["model=mlp", "trainer.clip_value=0.01", "optimizer=momentum"],
    "dropout": ["model=mlp", "model.dropout=0.5"],
    "bf16": ["model=mlp", "precision=bf16"],
    "fp16": ["model=mlp", "precision=fp16"],
    "fp16-clipped": ["model=mlp", "precision=fp16", "trainer.clip_norm=0.1", "optimizer=adamw"],
    "cd-3": ["model=rbm", "algorithm.k=3", "optimizer.lr=0.0625", "task.ais_steps=50"],
    "cd-sparse": ["model=rbm", "algorithm.sparsity_cost=0.1", "algorithm.persistent=true", "task.ais_steps=50"],
    "layerwise": ["model=dbn", "algorithm.steps_per_layer=6", "optimizer=momentum"],
    "critic-2": ["model=gan", "data=ring", "algorithm.critic_steps=2"],
}
TEXT = ["data=text", "data.context=12"]

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _capturable_everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch lets optimizers take their capturable form on some devices alone; here on the CPU, too."""
    names = ("adadelta", "adam", "nadam", "radam", "rmsprop")
    modules: list[Any] = [sys.modules[f"torch.optim.{name}"] for name in names]
    found = modules[0]._get_capturable_supported_devices()
    for module in modules:
        monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *_, **__: [*found, "cpu"])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """The names of what is not the same to the bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def compare(experiment: Experiment, steps: int = 50, tolerance: float | None = None, **more: Any) -> Run:
    """Train as written and through recordings, four steps at a time; equal to the bit, or within the tolerance."""
    written = Run(experiment, None, steps=steps, **more).fit().state()
    run = Run(experiment, Tape(), (4, 1), steps=steps, **more).fit()
    assert not run.notes
    assert run.tape.replays > 0
    if tolerance is None:
        assert not differing(written, run.state())
    else:
        torch.testing.assert_close(run.state(), written, rtol=tolerance, atol=tolerance)
    return run


@pytest.mark.parametrize("name", cases.ALL)
def test_a_family_has_the_weights_of_the_steps_as_written(name: str, family_files: dict[str, Path]) -> None:
    experiment = with_optimizer(cases.experiment(name, family_files), lr=EXACT)
    run = compare(experiment, steps=30 if name in SHORTER else 50)
    assert run.tape.captures <= 6


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_the_weights_of_the_steps_as_written(name: str) -> None:
    experiment = check(compose([*VARIANTS[name], "trainer.device=cpu"]))
    compare(with_optimizer(experiment, lr=EXACT), schedule=Halving())


def test_augmentation_is_part_of_the_recording() -> None:
    experiment = check(compose(["model=cnn", "data=digits", "trainer.device=cpu"]))
    augment = Augment(crop=2, flip=True, erase=0.5)
    compare(with_optimizer(experiment, lr=EXACT), batches={"augment": augment})


def test_the_moving_average_is_part_of_the_recording() -> None:
    experiment = check(compose(["model=mlp", "trainer.device=cpu"]))
    compare(with_optimizer(experiment, lr=EXACT), average=lambda model: ExponentialAverage(model, 0.75))


def test_a_carried_state_goes_on_from_replay_to_replay() -> None:
    words = ["model=lstm", *TEXT, "algorithm=truncated_backpropagation", "trainer.device=cpu"]
    run = compare(with_optimizer(check(compose(words)), lr=EXACT))
    assert run.trainer.algorithm.state_dict()["hidden"][0].abs().sum() > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_the_weights_of_the_steps_as_written(name: str) -> None:
    """To the bit where the same kernel runs; the others count and correct in float32 on the device.

    RAdam's correction subtracts numbers near one another; the first steps of Adadelta divide by the root of 1e-6.
    """
    experiment = check(compose(["model=mlp", "model.hidden=[16]", f"optimizer={name}", "trainer.device=cpu"]))
    if name == "lbfgs":
        run = Run(experiment, Tape(), (4, 1), steps=6).fit()
        assert run.notes == ["its line search looks at the loss to decide how often it looks again"]
        assert not differing(Run(experiment, None, steps=6).fit().state(), run.state())
        return
    same_kernel = name in ("adagrad", "adam", "adamw", "gd", "momentum", "nesterov", "sgd", "lion")
    tolerance = None if same_kernel else {"radam": 1e-4}.get(name, 1e-5)
    compare(with_optimizer(experiment, lr=EXACT), tolerance=tolerance)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_unfused_form_is_close_too(name: str) -> None:
    words = ["model=mlp", "model.hidden=[16]", f"optimizer={name}", "optimizer.fused=false", "trainer.device=cpu"]
    compare(with_optimizer(check(compose(words)), lr=EXACT), tolerance=1e-5)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["optimizer=sgd", "optimizer.fused=false"], "SGD reads its rate on the host; optimizer.fused=true does not"),
        (["optimizer=rmsprop", "precision=fp16"], "with a scaled loss RMSprop asks the device whether to step"),
    ],
)
def test_what_cannot_be_recorded_runs_as_written(words: list[str], reason: str) -> None:
    experiment = check(compose(["model=mlp", *words, "trainer.device=cpu"]))
    run = Run(experiment, Tape(), (4, 1), steps=12).fit()
    assert len(run.notes) == 1
    assert run.notes[0].startswith(reason)
    assert not differing(Run(experiment, None, steps=12).fit().state(), run.state())


def on_cuda(words: list[str]) -> tuple[Experiment, CudaRecorder]:
    experiment = with_optimizer(check(compose([*words, "trainer.device=cuda"])), lr=EXACT)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    return experiment, CudaRecorder(torch.device("cuda", torch.cuda.current_device()))


def compare_on_cuda(words: list[str], **more: Any) -> None:
    """Kernels add in another order from run to run, and optimizers count on the device: close, after 50 steps."""
    experiment, recorder = on_cuda(words)
    written = Run(experiment, None, **more).fit().state()
    run = Run(experiment, recorder, (4, 1), **more).fit()
    assert not run.notes
    torch.testing.assert_close(run.state(), written, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("name", cases.ALL)
def test_a_family_as_cuda_graphs(name: str, family_files: dict[str, Path]) -> None:
    compare_on_cuda(cases.overrides(name, family_files))


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_as_cuda_graphs(name: str) -> None:
    compare_on_cuda(VARIANTS[name], schedule=Halving())


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"lbfgs"}))
def test_an_optimizer_as_cuda_graphs(name: str) -> None:
    compare_on_cuda(["model=mlp", "model.hidden=[16]", f"optimizer={name}"])


@pytest.mark.gpu
@on_a_gpu
def test_a_step_that_waits_falls_back_and_leaves_the_device_usable() -> None:
    experiment, recorder = on_cuda(["model=mlp", "model.dropout=0.5"])
    written = Run(experiment, None, steps=20).fit().state()
    run = Run(experiment, recorder, steps=20)
    plain = run.trainer.take_step

    def waits(batch: Any) -> dict[str, Tensor]:
        logs = plain(batch)
        logs["loss"].item()
        return logs

    run.trainer.take_step = waits
    assert len(run.fit().notes) == 1
    torch.testing.assert_close(run.state(), written, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@on_a_gpu
def test_a_capture_that_breaks_leaves_random_numbers_and_memory_usable() -> None:
    recorder = CudaRecorder(torch.device("cuda", torch.cuda.current_device()))

    def breaks() -> Tensor:
        return torch.randn(3, device="cuda") * torch.randn(3, device="cuda").sum().item()

    with pytest.raises(RuntimeError):
        recorder.capture(breaks)
    torch.cuda.manual_seed(0)
    first = torch.randn(5, device="cuda")
    replay, found = recorder.capture(lambda: torch.randn(5, device="cuda"))
    torch.cuda.manual_seed(0)
    replay()
    torch.testing.assert_close(found, first)
