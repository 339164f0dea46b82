"""A pack of runs against the same runs alone: weights, optimizers, statistics, histories, random streams, endings.

What 100 steps leave is compared tensor by tensor to 1e-5 of its norm. Two things are beyond any tolerance, for the same
reason: a number that is exactly zero comes out as rounding noise. Of a gradient Adam makes steps of its full rate: a
bias before batch normalisation has one, and the bias of an attention's keys, which softmax does not see. Networks with
the first are trained with momentum, which leaves it where it is; the second is left out. And a ReLU, or a maximum, with
two sides within rounding of each other (1e-7) passes the gradient on in one run and not in the other, which a hundred
steps of a large network meet by chance: then weights differ by up to 1e-3, and the losses agree all the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlrun.errors import DivergedError
from dlrun.packing import gradient as gradient_module
from dlrun.packing import pack as pack_module
from dlrun.packing.flat import Unpackable
from dlrun.tasks import Evaluation
from dlrun.training.callbacks import Callback, Saver
from dlrun.training.trainer import Trainer
from pack_cases import COMMON, MLP, Side, alone, distance, distances, ready, together

TOLERANCE = 1e-5
NOISE = 1e-6  # of the running means of gradients that are zero but for rounding
KEYS = "queries_keys_values.bias"
TEXT = (
    "data=text", "data.context=12", "trainer.limit.train=308", "trainer.limit.val=30", "trainer.limit.test=10",
    *COMMON[4:],
)  # fmt: skip
CNN = ("model=cnn", "model.channels=[4,8]", "model.hidden=[16]", "model.batch_norm=true", "activation=tanh",
       "trainer.channels_last=false")  # fmt: skip
FAMILIES: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "mlp": (
        (*COMMON, *MLP),
        [
            "optimizer.lr=1e-3 model.dropout=0.2",
            "trainer.seed=1 optimizer.lr=1e-2 model.dropout=0.5 optimizer.weight_decay=0.01",
            "trainer.seed=2 optimizer.betas=[0.8,0.99] model.dropout=0.1",
        ],
    ),
    "cnn": (
        (*COMMON, *CNN, "optimizer=momentum"),
        [
            "optimizer.lr=0.05 model.dropout=0.2",
            "trainer.seed=1 optimizer.lr=0.02 model.dropout=0.5 optimizer.momentum=0.8",
            "trainer.seed=2 optimizer.weight_decay=1e-3 model.dropout=0.1",
        ],
    ),
    "lstm": (
        (*COMMON, "model=lstm", "model.hidden=8", "model.layers=2"),
        ["optimizer.lr=1e-2 model.dropout=0.2", "trainer.seed=1 model.dropout=0.5 optimizer.weight_decay=1e-3"],
    ),
    "lstm language model": (
        (*TEXT, "model=lstm", "model.hidden=8"),
        ["optimizer.lr=1e-2 model.dropout=0.2", "trainer.seed=1 model.dropout=0.5"],
    ),
    "transformer language model": (
        (*TEXT, "model=transformer", "model.width=16", "model.layers=1"),
        [
            "optimizer.lr=1e-2 model.dropout=0.2",
            "trainer.seed=1 model.dropout=0.5",
            "trainer.seed=2 optimizer.weight_decay=1e-3 model.dropout=0",
        ],
    ),
    "autoencoder": (
        (*COMMON, "model=autoencoder", "model.hidden=[16]", "model.code=4", "activation=tanh"),
        ["optimizer.lr=1e-2", "trainer.seed=1 optimizer.lr=2e-3", "trainer.seed=1 optimizer.betas=[0.7,0.9]"],
    ),
}
# Words for all lanes beside the MLP's, and those of each.
OPTIONS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "one order of the data": ((), ["optimizer.lr=1e-3", "optimizer.lr=1e-2"]),
    "two orders in four lanes": (
        (),
        [f"trainer.seed={seed} optimizer.lr={rate}" for rate in (1e-3, 1e-2) for seed in (0, 1)],
    ),
    "cosine": (("schedule=cosine",), ["schedule.warmup=0.1", "schedule.final=0.1 trainer.seed=1"]),
    "one cycle": (("schedule=one_cycle",), ["schedule.warmup=0.3 optimizer.lr=0.02", "schedule.warmup=0.6"]),
    "plateau": (
        ("schedule=plateau", "trainer.evaluate_steps=10", "schedule.threshold=0.1"),
        ["schedule.patience=1", "schedule.patience=1 schedule.gamma=0.1 trainer.seed=1"],
    ),
    "average of weights": ((), ["trainer.ema=0.9", "trainer.ema=0.5 trainer.seed=1"]),
    "clipped by norm": (("optimizer=momentum",), ["trainer.clip_norm=0.5", "trainer.clip_norm=0.1 optimizer.lr=0.05"]),
    "clipped by value": (("optimizer=sgd",), ["trainer.clip_value=0.01", "trainer.clip_value=0.1 optimizer.lr=0.5"]),
    "clipped both ways": (("trainer.clip_norm=0.3",), ["trainer.clip_value=0.01", "trainer.clip_value=0.1"]),
    "label smoothing": (("loss=cross_entropy",), ["loss.label_smoothing=0.1", "loss.label_smoothing=0"]),
    "class weights": (
        ("loss=cross_entropy",),
        ["loss.class_weights=[1,1,1,1,1,1,1,1,1,2]", "loss.class_weights=[3,1,1,1,1,1,1,1,1,1]"],
    ),
    "whole batch": (
        ("optimizer=gd", "trainer.batch_size=auto"),
        ["optimizer.lr=0.5", "optimizer.lr=0.1 trainer.seed=1"],
    ),
}


def values_apart(found: Any, wanted: Any, tolerance: float, place: str = "") -> list[str]:
    """Where two trees of dicts and lists differ: in structure, or in a number by more than the tolerance."""
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping) or found.keys() != wanted.keys():
            return [f"{place}: other keys"]
        return [w for k in wanted for w in values_apart(found[k], wanted[k], tolerance, f"{place}/{k}")]
    if isinstance(wanted, list | tuple):
        if len(found) != len(wanted):
            return [f"{place}: {len(found)} for {len(wanted)}"]
        pairs = enumerate(zip(found, wanted, strict=True))
        return [w for i, (a, b) in pairs for w in values_apart(a, b, tolerance, f"{place}/{i}")]
    if isinstance(wanted, Tensor):
        alike = (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        near = alike and torch.allclose(found.double(), wanted.double(), rtol=tolerance, atol=NOISE, equal_nan=True)
        return [] if near or distance(found, wanted) <= tolerance else [f"{place}: {found} for {wanted}"]
    if isinstance(wanted, float) and isinstance(found, float):
        return [] if found == pytest.approx(wanted, rel=tolerance, abs=NOISE, nan_ok=True) else [f"{place}: {found}"]
    return [] if found == wanted else [f"{place}: {found!r} for {wanted!r}"]


def state_of(side: Side, lane: int) -> dict[str, Any]:
    """All that the rest of a run would depend on, but for its weights and the clock."""
    state = side.sessions[lane].trainer.state_dict() | {"random": side.randoms[lane]}
    latest = {name: value for name, value in state["latest"].items() if name != "examples_per_second"}
    return {name: value for name, value in state.items() if name not in ("model", "seconds")} | {"latest": latest}


def networks(side: Side, lane: int) -> list[dict[str, Tensor]]:
    """A lane's last network and its best one, without what has no gradient."""
    best = side.sessions[lane].trainer.best
    assert best is not None
    assert best.model is not None
    both = [side.weights(lane), best.model]
    return [{name: without_keys(t) if name.endswith(KEYS) else t for name, t in found.items()} for found in both]


def without_keys(bias: Tensor) -> Tensor:
    queries, _, values = bias.chunk(3)
    return torch.cat([queries, values])


def losses(side: Side, lane: int, name: str) -> list[float]:
    return [row[name] for row in side.rows(lane) if name in row]


def assert_equal(packed: Side, expected: Side, lanes: Sequence[int] | None = None) -> None:
    """Everything that the lanes' runs leave is what it is of the runs alone."""
    for lane in range(len(expected.sessions)) if lanes is None else lanes:
        assert packed.ends[lane] == expected.ends[lane]
        for found, wanted in zip(networks(packed, lane), networks(expected, lane), strict=True):
            apart = distances(found, wanted)
            assert max(apart.values()) <= TOLERANCE, (lane, apart)
        # Second moments and single losses are squares, or differences, of what the weights are.
        assert values_apart(state_of(packed, lane), state_of(expected, lane), 1e-4) == []
        rows, alike = packed.rows(lane), expected.rows(lane)
        assert [list(row) for row in rows] == [list(row) for row in alike]
        assert values_apart(rows, alike, 1e-4) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hundred_steps_leave_what_they_leave_alone(name: str, tmp_path: Path) -> None:
    words, lanes = FAMILIES[name]
    expected, packed = alone(words, lanes, tmp_path / "alone"), together(words, lanes, tmp_path / "packed")
    assert_equal(packed, expected)
    assert all(session.trainer.step == 100 for session in packed.sessions)
    first, second = packed.weights(0), packed.weights(1)
    assert max(distances(first, second).values()) > 0.1  # the lanes are networks of their own


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_does_what_it_does_alone(name: str, tmp_path: Path) -> None:
    shared, lanes = OPTIONS[name]
    words = (*COMMON, *MLP, *shared)
    assert_equal(together(words, lanes, tmp_path / "packed"), alone(words, lanes, tmp_path / "alone"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_compiled_pack_leaves_it_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module, "WORTH_COMPILING", 0)
    monkeypatch.setattr(gradient_module, "COMPILED_AT", 2)
    words, lanes = FAMILIES[name]
    words = (*words, "trainer.limit.train=320")  # batches of one size, so one compilation
    side, pack = ready(words, lanes, tmp_path / "packed")
    pack.compile(True)
    pack.train()
    assert pack.step.gradient.compiles  # it did not give up
    assert_equal(side, alone(words, lanes, tmp_path / "alone"))
    torch.compiler.reset()


def test_adam_moves_what_has_no_gradient_and_nothing_else_at_random(tmp_path: Path) -> None:
    words = (*COMMON, *CNN, "optimizer.lr=0.01")
    lanes = ["model.dropout=0.2", "trainer.seed=1 model.dropout=0.4"]
    expected, packed = alone(words, lanes, tmp_path / "alone"), together(words, lanes, tmp_path / "packed")
    for lane in range(2):
        apart = distances(packed.weights(lane), expected.weights(lane))
        noise = {name for name, d in apart.items() if d > 1e-4}
        assert noise <= {
            "features.0.bias", "features.4.bias", "hidden.0.bias",  # before batch normalisation
            "features.1.running_mean", "features.5.running_mean", "hidden.1.running_mean",  # they hold that bias
        }  # fmt: skip
        # Batch normalisation takes the bias away again: at once in training, in evaluation by a mean that lags behind.
        for name, tolerance in (("train/loss", 1e-4), ("val/loss", 0.2)):
            assert losses(packed, lane, name) == pytest.approx(losses(expected, lane, name), rel=tolerance)


def test_rectifiers_may_flip_and_the_losses_agree(tmp_path: Path) -> None:
    words = (*COMMON, "model=cnn", "model.channels=[8,16]", "model.hidden=[32]", "activation=relu")
    words = (*words, "trainer.channels_last=false")
    lanes = ["optimizer.lr=3e-3", "trainer.seed=1 optimizer.lr=1e-2"]
    expected, packed = alone(words, lanes, tmp_path / "alone"), together(words, lanes, tmp_path / "packed")
    for lane in range(2):
        assert max(distances(packed.weights(lane), expected.weights(lane)).values()) < 5e-2
        assert losses(packed, lane, "train/loss") == pytest.approx(losses(expected, lane, "train/loss"), rel=1e-2)


# --- Lanes that end before the others


class Ends(Callback):
    """Ends its run at an evaluation, as a pruner does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        if evaluation.step == self.step:
            trainer.end("pruned")


def test_a_lane_that_stops_early_leaves_the_others_alone(tmp_path: Path) -> None:
    words = (*COMMON, *MLP, "trainer.early_stop=2", "trainer.evaluate_steps=10", "optimizer=sgd")
    lanes = ["optimizer.lr=0.1", "trainer.seed=1 optimizer.lr=1e-30", "trainer.seed=2 optimizer.lr=0.05"]
    expected, packed = alone(words, lanes, tmp_path / "alone"), together(words, lanes, tmp_path / "packed")
    assert packed.ends == {0: "finished", 1: "early stop", 2: "finished"}
    assert [session.trainer.step for session in packed.sessions] == [100, 20, 100]
    assert_equal(packed, expected)


def test_a_pruned_lane_ends_where_it_would_alone(tmp_path: Path) -> None:
    words = (*COMMON, *MLP, "trainer.ema=0.9", "trainer.clip_norm=1", "model.dropout=0.1")
    lanes = ["optimizer.lr=3e-3", "trainer.seed=1 optimizer.lr=1e-2", "trainer.seed=2 model.dropout=0.3"]
    watched: list[list[Callback]] = [[], [Ends(50)], []]
    expected = alone(words, lanes, tmp_path / "alone", watched)
    packed = together(words, lanes, tmp_path / "packed", watched)
    assert packed.ends == {0: "finished", 1: "pruned", 2: "finished"}
    assert [session.trainer.step for session in packed.sessions] == [100, 50, 100]
    assert_equal(packed, expected)


@pytest.mark.parametrize("step", [0, 20])
def test_a_lane_that_ends_with_an_error_leaves_the_others_alone(tmp_path: Path, step: int) -> None:
    class Fails(Callback):
        def on_start(self, trainer: Trainer) -> None:
            self.at(trainer)

        def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
            self.at(trainer)

        def at(self, trainer: Trainer) -> None:
            if trainer.step == step:
                raise ValueError(f"planted at {step}")

    words, lanes = (*COMMON, *MLP), ["optimizer.lr=3e-3", "trainer.seed=1", "trainer.seed=2"]
    packed = together(words, lanes, tmp_path / "packed", [[], [Fails()], []])
    assert isinstance(packed.ends[1], ValueError)
    assert packed.sessions[1].trainer.step == step
    assert_equal(packed, alone(words, lanes, tmp_path / "alone"), lanes=[0, 2])


@pytest.mark.parametrize("rate", ["1e38", "1e20"])
def test_a_lane_that_diverges_does_so_where_it_would_alone(tmp_path: Path, rate: str) -> None:
    words = (*COMMON, *MLP, "optimizer=sgd", "model.dropout=0.1", "activation=identity")
    lanes = ["optimizer.lr=0.1", f"trainer.seed=1 optimizer.lr={rate}", "trainer.seed=2 optimizer.lr=0.2"]
    expected, packed = alone(words, lanes, tmp_path / "alone"), together(words, lanes, tmp_path / "packed")
    error, wanted = packed.ends.pop(1), expected.ends.pop(1)
    assert isinstance(error, DivergedError)
    assert isinstance(wanted, DivergedError)
    assert str(error) == str(wanted)
    assert_equal(packed, expected, lanes=[0, 2])


class Poisons(Callback):
    """Plants a number that is not one into a weight."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        if evaluation.step == self.step:
            with torch.no_grad():
                trainer.updater.parameters[0].view(-1)[0] = self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_poisoned_lane_leaves_the_others_alone(tmp_path: Path, value: float) -> None:
    """At step 0, so that batches of another size come while it is poisoned and still in the pack."""
    words = (*COMMON, *MLP, "trainer.steps=40")
    lanes = ["optimizer.lr=3e-3", "trainer.seed=1", "trainer.seed=2 optimizer.lr=1e-2"]
    watched: list[list[Callback]] = [[], [Poisons(0, value)], []]
    expected = alone(words, lanes, tmp_path / "alone", watched)
    packed = together(words, lanes, tmp_path / "packed", watched)
    assert str(packed.ends.pop(1)) == str(expected.ends.pop(1))
    assert_equal(packed, expected, lanes=[0, 2])


def test_the_last_lane_may_end_before_the_others_began(tmp_path: Path) -> None:
    words, lanes = (*COMMON, *MLP), ["trainer.seed=0", "trainer.seed=1"]
    packed = together(words, lanes, tmp_path, [[Ends(0)], [Ends(0)]])
    assert packed.ends == {0: "pruned", 1: "pruned"}


# --- What is due while the steps are stacked


def test_checkpoints_come_at_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[Path, int]] = []
    usual = Saver.save

    def noting(self: Saver, trainer: Trainer) -> None:
        saved.append((self.history.path, trainer.step))
        usual(self, trainer)

    monkeypatch.setattr(Saver, "save", noting)
    packed = together((*COMMON, *MLP, "trainer.checkpoint_every=30"), ["trainer.seed=0", "trainer.seed=1"], tmp_path)
    for session in packed.sessions:
        assert [step for path, step in saved if path == session.history.path] == [30, 60, 90, 100]


def test_lanes_see_their_gradients_and_their_optimizers_state_at_events(tmp_path: Path) -> None:
    class Looks(Callback):
        def __init__(self) -> None:
            self.norms: list[Tensor] = []

        def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
            held = [parameter.grad for parameter in trainer.updater.parameters]
            self.norms += [gradient.norm() for gradient in held if gradient is not None]
            assert trainer.updater.state_dict()["optimizer"]["state"][0]["step"] == trainer.step

    words, lanes = (*COMMON, *MLP, "trainer.steps=40"), ["trainer.seed=0", "trainer.seed=1"]
    one, other = [Looks(), Looks()], [Looks(), Looks()]
    alone(words, lanes, tmp_path / "alone", [[look] for look in one])
    together(words, lanes, tmp_path / "packed", [[look] for look in other])
    for mine, wanted in zip(other, one, strict=True):
        assert len(mine.norms) == 8  # four tensors, two rows
        assert distance(torch.stack(mine.norms), torch.stack(wanted.norms)) < TOLERANCE


def test_a_signal_ends_all_lanes_where_they_stand(tmp_path: Path) -> None:
    class Signal(Callback):
        def on_log(self, trainer: Trainer, row: dict[str, float]) -> None:
            if trainer.step == 40:
                trainer.stop.number = 15

    side, pack = ready((*COMMON, *MLP), ["trainer.seed=0", "trainer.seed=1"], tmp_path, [[Signal()], []])
    flag = side.sessions[0].trainer.stop
    for session in side.sessions:
        session.trainer.stop = flag
    pack.train()
    assert side.ends == {0: "interrupted", 1: "interrupted"}
    assert [session.trainer.step for session in side.sessions] == [40, 40]
    for session in side.sessions:
        found = session.checkpoints.newest()
        assert found is not None
        assert found[0]["step"] == 40


# --- What is refused, with its reason, before anything has changed

REFUSED = {
    "a batch in pieces": (("trainer.accumulate=2",), ["", "trainer.seed=1"], "pieces|Accumulation"),
    "other widths": ((), ["", "model.hidden=[9]"], "hidden"),
    "other optimizers": ((), ["", "optimizer=sgd"], "different optimizers: Adam, SGD"),
    "clipping in one": ((), ["", "trainer.clip_norm=1"], "some trials clip"),
    "an average in one": ((), ["", "trainer.ema=0.9"], "trainer.ema"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_train_together_is_refused(name: str, tmp_path: Path) -> None:
    shared, lanes, reason = REFUSED[name]
    with pytest.raises(Unpackable, match=reason):
        ready((*COMMON, *MLP, *shared), lanes, tmp_path)
