"""What TensorBoard reads back from a run's event files, and that looking changes nothing."""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlrun.data.facts import Facts
from dlrun.tasks import Evaluation
from dlrun.tasks.classification import Classification
from dlrun.tasks.regression import Regression
from dlrun.tracking import event_file, gallery
from dlrun.tracking.history import History
from dlrun.tracking.tensorboard import TensorBoard

ROW = {"train/loss": 0.5, "rate": 0.1, "gradient_norm": 2.0, "examples_per_second": 1e5}
POINTS = Facts("spiral", "points", (2,), "classification", classes=("orange", "blue"))
IMAGES = Facts("digits", "image", (1, 8, 8), "classification", classes=tuple("0123456789"))
PLANE = Facts("plane", "points", (2,), "regression", targets=("height",))


class Part:
    """Ready examples, in batches of seven."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets, self.size = inputs, targets, len(inputs)

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.inputs.split(7), self.targets.split(7), strict=True)


def network(facts: Facts) -> nn.Module:
    """With dropout and batch statistics, which an evaluation in training mode would move."""
    units = facts.num_classes or 1
    if facts.kind == "image":
        front: nn.Module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 12))
    else:
        front = nn.Linear(2, 12)
    return nn.Sequential(front, nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, units))


def fake_trainer(facts: Facts) -> Any:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(50, *facts.input_shape, generator=generator)
    task: Any
    if facts.task == "classification":
        targets = torch.arange(50) % facts.num_classes
        task = Classification(nn.CrossEntropyLoss(), facts)  # type: ignore[arg-type]
    else:
        targets = inputs.sum(1, keepdim=True)
        task = Regression(nn.MSELoss(), facts)  # type: ignore[arg-type]
    task.fit(targets, list)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(facts)
    part = Part(inputs, targets)
    return SimpleNamespace(step=0, epoch=0.0, model=model, task=task, facts=facts, train=part, val=part)


def backward(trainer: Any) -> None:
    with torch.random.fork_rng():
        trainer.task.loss(trainer.model, (trainer.train.inputs, trainer.train.targets))[0].backward()


def evaluated(trainer: Any, split: str = "val") -> Evaluation:
    trainer.model.eval()
    with torch.no_grad():
        outputs = trainer.model(trainer.val.inputs)
    trainer.model.train()
    found = trainer.task.metrics(outputs, trainer.val.targets)
    metrics = {"loss": 1.5} | {key: float(value) for key, value in found.items()}
    return Evaluation(split, trainer.step, trainer.epoch, metrics, {}, outputs, trainer.val.targets)


def whole_run(folder: Path, facts: Facts, **settings: Any) -> tuple[TensorBoard, Any]:
    trainer = fake_trainer(facts)
    board = TensorBoard(folder, {"optimizer.lr": 0.1, "model": "mlp", "nesterov": True}, ["test/accuracy"], **settings)
    board.on_start(trainer)
    board.on_evaluation(trainer, evaluated(trainer))
    for step in (10, 20):
        trainer.step = step
        backward(trainer)
        board.on_log(trainer, ROW | {"train/loss": 1 / step})
    board.on_evaluation(trainer, evaluated(trainer))
    board.on_end(trainer)
    test = evaluated(trainer, "test")
    board.on_evaluation(trainer, test)
    board.finish({f"test/{key}": value for key, value in test.metrics.items()}, trainer.step)
    return board, trainer


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = dict.fromkeys(("images", "histograms", "tensors", "scalars"), 0)
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=sizes).Reload()


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every board of the test, as a run does when it ends."""
    boards: list[TensorBoard] = []
    start = TensorBoard.on_start

    def remembered(board: TensorBoard, trainer: Any) -> None:
        boards.append(board)
        start(board, trainer)

    monkeypatch.setattr(TensorBoard, "on_start", remembered)
    yield
    for board in boards:
        board.close()


@pytest.fixture(autouse=True)
def _no_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every test that expects a warning clears the log."""
    yield
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


EACH_KIND = pytest.mark.parametrize("facts", [POINTS, IMAGES, PLANE], ids=lambda facts: facts.name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A finished run of each kind of data: its folder and its trainer."""
    found = {}
    for facts in (POINTS, IMAGES, PLANE):
        folder = tmp_path_factory.mktemp(facts.name)
        found[facts.name] = folder, whole_run(folder, facts)[1]
    return found


@EACH_KIND
class TestWholeRun:
    def test_scalars_are_the_rows(self, runs: dict[str, tuple[Path, Any]], facts: Facts) -> None:
        folder = runs[facts.name][0]
        found = read(folder)
        assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [
            (10, pytest.approx(0.1)),
            (20, pytest.approx(0.05)),
        ]
        assert [(e.step, e.value) for e in found.Scalars("rate")] == [
            (10, pytest.approx(0.1)),
            (20, pytest.approx(0.1)),
        ]
        assert [e.step for e in found.Scalars("val/loss")] == [0, 20]
        assert [e.step for e in found.Scalars("test/loss")] == [20]
        metrics = {"test/accuracy", "val/accuracy"} if facts.task == "classification" else {"test/r2", "val/r2"}
        assert metrics <= set(found.Tags()["scalars"])

    def test_pictures_are_there_in_both_places(self, runs: dict[str, tuple[Path, Any]], facts: Facts) -> None:
        from PIL import Image

        folder = runs[facts.name][0]
        found = read(folder)
        matrix = "confusion_matrix" if facts.task == "classification" else "predictions"
        own = {"points": {"boundary"}, "image": {"predictions", "filters"}}[facts.kind]
        tags = {f"pictures/{name}" for name in own} | {f"val/{matrix}", f"test/{matrix}"}
        assert set(found.Tags()["images"]) == tags
        for tag in tags:
            steps = [event.step for event in found.Images(tag)]
            assert steps[-1] == 20
            assert len(set(steps)) == len(steps)
            event = found.Images(tag)[-1]
            with Image.open(io.BytesIO(event.encoded_image_string)) as image:
                assert image.size == (event.width, event.height)
        files = {path.stem for path in (folder / "plots").glob("*.png")}
        assert files == own | {matrix, "learning_curves"}
        for path in (folder / "plots").glob("*.png"):
            with Image.open(path) as image:
                assert min(image.size) > 90

    def test_histograms_of_weights_and_gradients(self, runs: dict[str, tuple[Path, Any]], facts: Facts) -> None:
        folder, trainer = runs[facts.name]
        found = read(folder)
        names = [name for name, _ in trainer.model.named_parameters()]
        assert set(found.Tags()["histograms"]) == {f"{kind}/{n}" for kind in ("weights", "gradients") for n in names}
        steps = [event.step for event in found.Histograms(f"weights/{names[0]}")]
        assert (steps[0], steps[-1]) == (0, 20)
        value = found.Histograms(f"weights/{names[0]}")[-1].histogram_value
        weight = dict(trainer.model.named_parameters())[names[0]]
        assert value.num == weight.numel() == sum(value.bucket)
        assert value.sum == pytest.approx(weight.sum().item(), rel=1e-4)
        assert (value.min, value.max) == pytest.approx((weight.min().item(), weight.max().item()))

    def test_the_graph_is_there(self, runs: dict[str, tuple[Path, Any]], facts: Facts) -> None:
        from tensorboard.compat.proto.graph_pb2 import GraphDef

        folder = runs[facts.name][0]
        graph = GraphDef.FromString(read(folder)._graph)
        assert sum("Linear" in node.name for node in graph.node) >= 4

    def test_one_run_with_its_hyperparameters_and_text(self, runs: dict[str, tuple[Path, Any]], facts: Facts) -> None:
        from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        folder = runs[facts.name][0]
        assert list(EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload().Runs()) == ["tensorboard"]
        found = read(folder)
        content = found.PluginTagToContent("hparams")
        start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
        assert start["optimizer.lr"].number_value == 0.1
        assert start["model"].string_value == "mlp"
        assert start["nesterov"].string_value == "true"
        experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
        assert [info.name.tag for info in experiment.metric_infos] == ["test/accuracy"]
        assert HParamsPluginData.FromString(content["_hparams_/session_end_info"]).session_end_info.status == 1
        text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "optimizer.lr: 0.1" in text


@EACH_KIND
class TestLooking:
    def test_looking_changes_nothing(self, tmp_path: Path, facts: Facts) -> None:
        torch.manual_seed(7)
        trainer = fake_trainer(facts)
        trainer.model[2].eval()  # a module that its owner froze stays frozen
        backward(trainer)
        state = {key: value.clone() for key, value in trainer.model.state_dict().items()}
        grads = [p.grad.clone() for p in trainer.model.parameters()]
        modes = [module.training for module in trainer.model.modules()]
        evaluation = Evaluation(
            "val", 0, 0.0, {"loss": 1.0}, {}, torch.zeros(50, facts.num_classes or 1), trainer.val.targets
        )
        random = torch.get_rng_state()
        board = TensorBoard(tmp_path, {}, [])
        board.on_start(trainer)
        board.on_evaluation(trainer, evaluation)
        board.on_log(trainer, ROW)
        board.on_end(trainer)
        assert torch.equal(torch.get_rng_state(), random)
        assert [module.training for module in trainer.model.modules()] == modes
        assert all(torch.equal(value, state[key]) for key, value in trainer.model.state_dict().items())
        assert all(torch.equal(p.grad, g) for p, g in zip(trainer.model.parameters(), grads, strict=True))
        assert torch.is_grad_enabled()


def test_the_random_state_survives_a_model_that_draws(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.layer(inputs) + torch.randn(len(inputs), 2)
            return found

    trainer = fake_trainer(POINTS)
    trainer.model = Noisy()
    random = torch.get_rng_state()
    trainer.model(torch.zeros(1, 2))
    assert not torch.equal(torch.get_rng_state(), random)  # so the test can fail
    random = torch.get_rng_state()
    board = TensorBoard(tmp_path, {}, [])
    board.on_start(trainer)
    board.on_end(trainer)
    assert torch.equal(torch.get_rng_state(), random)


def precision_recall_tags(folder: Path) -> list[str]:
    return sorted(read(folder).PluginTagToContent("pr_curves"))


def test_precision_recall_is_one_curve_for_two_classes(runs: dict[str, tuple[Path, Any]]) -> None:
    assert precision_recall_tags(runs["spiral"][0]) == ["test/precision_recall/blue", "val/precision_recall/blue"]


def test_precision_recall_is_one_curve_per_class(runs: dict[str, tuple[Path, Any]]) -> None:
    assert len([tag for tag in precision_recall_tags(runs["digits"][0]) if tag.startswith("test/")]) == 10


def test_precision_recall_of_a_perfect_network() -> None:
    from tensorboard.util.tensor_util import make_ndarray

    targets = torch.arange(20) % 2
    outputs = nn.functional.one_hot(targets, 2) * 20.0
    task = Classification(nn.CrossEntropyLoss(), POINTS)  # type: ignore[arg-type]
    (summary,) = gallery.precision_recall(Evaluation("val", 0, 0, {}, {}, outputs, targets), task, POINTS)
    precision = make_ndarray(summary.value[0].tensor)[4]
    assert precision[1:-1].min() == 1.0


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import plugin_event_accumulator

    history = History(tmp_path / "history.jsonl")
    trainer = fake_trainer(POINTS)
    first = TensorBoard(tmp_path, {}, [])
    first.on_start(trainer)
    for trainer.step in (10, 20, 30, 40):
        first.on_log(trainer, ROW)
        history.append({"step": trainer.step, "epoch": 0.1, "train/loss": 0.5})
    trainer.step = 20  # killed after step 40, resumed from the checkpoint of step 20
    second = TensorBoard(tmp_path, {}, [], purge_step=21)
    second.on_start(trainer)
    for trainer.step in (30, 40, 50):
        second.on_log(trainer, ROW | {"train/loss": 0.25})
    second.on_end(trainer)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    found = [(event.step, event.value) for event in read(tmp_path).Scalars("train/loss")]
    assert found == [(10, 0.5), (20, 0.5), (30, 0.25), (40, 0.25), (50, 0.25)]
    assert second._curves["train/loss"] == found
    # TensorBoard's own loader forgives less: it ignores the first mark of a restart.
    plugins = plugin_event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in plugins.Tensors("train/loss")] == [10, 20, 30, 40, 50]
    assert len(plugins.Tensors("config/text_summary")) == 1


def test_a_disk_that_refuses_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = fake_trainer(POINTS)
    board = TensorBoard(tmp_path, {}, [])
    board.on_start(trainer)

    def full(self: Any, summary: Any, step: int = 0) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_file.EventFile, "add", full)
    for trainer.step in (1, 2):
        board.on_log(trainer, ROW)
    board.on_evaluation(trainer, evaluated(trainer))
    board.on_end(trainer)
    board.finish({}, 2)
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert (tmp_path / "plots" / "boundary.png").is_file()
    caplog.clear()


def test_a_folder_that_cannot_be_made_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    (tmp_path / "plots").write_text("in the way")
    whole_run(tmp_path, IMAGES)
    messages = [record.message for record in caplog.records]
    assert len(messages) == len(set(messages)) >= 2
    caplog.clear()


def test_a_model_that_cannot_be_drawn_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            raise RuntimeError("not now")

    trainer = fake_trainer(POINTS)
    trainer.model = Stubborn()
    board = TensorBoard(tmp_path, {}, [])
    board.on_start(trainer)
    board.on_log(trainer, ROW)
    board.on_end(trainer)
    board.on_end(trainer)
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2  # the graph and the boundary, once each
    assert all("not now" in message for message in messages)
    assert read(tmp_path).Tags()["scalars"] == list(ROW)
    caplog.clear()


def test_pictures_and_histograms_wait_for_their_share(tmp_path: Path) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # looking at the clock costs a second, so each use costs one
        return now[0]

    trainer = fake_trainer(POINTS)
    board = TensorBoard(tmp_path, {}, [], share=0.01, clock=clock)
    board.on_start(trainer)
    for trainer.step in range(1, 2001):
        board.on_log(trainer, {"rate": 0.1})
    board.finish({}, 2000)
    drawn = len(read(tmp_path).Histograms("weights/0.weight"))
    assert 4 <= drawn <= 0.0025 * now[0] + 2  # a quarter of the share, the one of the start and the first
    assert len(read(tmp_path).Scalars("rate")) == 2000


def test_metrics_of_the_end_become_scalars_once(tmp_path: Path, runs: dict[str, tuple[Path, Any]]) -> None:
    assert len(read(runs["spiral"][0]).Scalars("test/accuracy")) == 1
    trainer = fake_trainer(POINTS)
    board = TensorBoard(tmp_path, {}, ["test/accuracy"])
    board.on_start(trainer)
    board.finish({"test/accuracy": 0.75, "seconds": 3.0}, 9)
    board.finish({"test/accuracy": 0.75}, 9)
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("test/accuracy")] == [(9, 0.75)]
    assert "seconds" not in read(tmp_path).Tags()["scalars"]


def test_the_configuration_is_the_runs_own_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model:\n  hidden: [8, 8]\n")
    board = TensorBoard(tmp_path, {"a": 1}, [])
    board.on_start(fake_trainer(POINTS))
    text = read(tmp_path).Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "      hidden: [8, 8]" in text


def test_a_drawing_may_be_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery.Gallery, "drawings", lambda self: {"pictures/story": lambda: "Once *upon* a time"})
    board = TensorBoard(tmp_path, {}, [])
    trainer = fake_trainer(POINTS)
    board.on_start(trainer)
    trainer.step = 5
    board.on_end(trainer)
    written = read(tmp_path).Tensors("pictures/story/text_summary")
    assert [(event.step, event.tensor_proto.string_val[0].decode()) for event in written] == [
        (0, "Once *upon* a time"),
        (5, "Once *upon* a time"),
    ]
    assert (tmp_path / "plots" / "story.md").read_text() == "Once *upon* a time"


def test_codes_go_to_the_projector_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = fake_trainer(IMAGES)
    trainer.model.encode = lambda inputs: inputs.flatten(1)[:, :3]
    board = TensorBoard(tmp_path, {}, [])
    board.on_start(trainer)
    assert not (tmp_path / "tensorboard" / "tensors.tsv").exists()
    board.on_end(trainer)
    assert len((tmp_path / "tensorboard" / "tensors.tsv").read_text().splitlines()) == 50
    assert (tmp_path / "tensorboard" / "sprite.png").exists()
    (tmp_path / "tensorboard" / "sprite.png").unlink()
    (tmp_path / "tensorboard" / "sprite.png").mkdir()  # refuses to be written
    board.on_end(trainer)
    assert "TensorBoard is off for the rest of this run" in caplog.text
    caplog.clear()
