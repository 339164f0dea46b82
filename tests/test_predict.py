"""What a run answers: rows, pictures, new examples, a text; and what it refuses to be asked."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dlrun import data
from dlrun.config import compose
from dlrun.data.images import ImagePreprocess
from dlrun.data.text import LanguagePreprocess
from dlrun.data.tokenizing import Characters
from dlrun.errors import CheckpointError, ConfigError, DataError, StorageError
from dlrun.predict import CHUNK, FILES, Wishes, predict
from dlrun.run import Outcome, train
from dlrun.training.precision import Precision
from quiet import Quiet, train_short


def table(path: Path, classes: tuple[str, str] = ("a", "b"), rows: int = 120) -> Path:
    lines = [f"{i % 7},{i % 5},{classes[i % 7 > 3]}" for i in range(rows)]
    path.write_text("\n".join(["x,y,kind", *lines]) + "\n")
    return path


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trained(root: Path, *overrides: str) -> Outcome:
    """Two steps of any family."""
    config = compose([*overrides, "tracking=minimal", "trainer.steps=2"])
    return train(config, root=root, command=["dlrun", "train"], reporter=Quiet())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a table which is gone."""
    folder = tmp_path_factory.mktemp("trained")
    data = table(folder / "table.csv")
    done = train_short(folder / "outputs", "data=csv", f"data.path={data}")
    data.unlink()
    return done.path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.csv"
    path.write_text("x,y\n" + "\n".join(f"{i % 7},{i % 5}" for i in range(CHUNK + 7)) + "\n")
    return path


# Rows


def test_prediction_needs_nothing_but_the_run(run: Path, asked: Path) -> None:
    found = predict(run, [asked])
    assert len(found.rows) == CHUNK + 7
    assert found.path == run / "predictions" / "asked.csv"
    rows = cells(found.path)
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in found.rows]
    assert set(rows[0]) == {"input", "prediction", "p(a)", "p(b)"}
    for row in rows:
        assert float(row["p(a)"]) + float(row["p(b)"]) == pytest.approx(1, abs=2e-6)
        assert row["prediction"] == ("a" if float(row["p(a)"]) >= 0.5 else "b")


def test_the_answer_to_an_example_does_not_depend_on_the_others(run: Path, asked: Path, tmp_path: Path) -> None:
    whole = predict(run, [asked]).rows
    last = tmp_path / "last.csv"
    lines = asked.read_text().splitlines()
    last.write_text("\n".join([lines[0], lines[-1]]) + "\n")
    (row,) = predict(run, [last]).rows
    assert row["p(a)"] == pytest.approx(whole[-1]["p(a)"], abs=1e-5)


def test_several_files_are_named_in_the_answer(run: Path, asked: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("x,y\n1,2\n")
    target = tmp_path / "deep" / "answer.csv"
    found = predict(run, [asked, other], output=target)
    assert found.path == target
    assert {row["file"] for row in found.rows} == {"asked.csv", "other.csv"}


def test_a_folder_to_write_to_gets_a_file_of_the_usual_name(run: Path, asked: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert predict(run, [asked], output=tmp_path / "there").path == tmp_path / "there" / "asked.csv"


def test_standard_output_gets_the_csv_alone(run: Path, asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(run, [asked], output=Path("-"))
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "input,prediction,p(a),p(b)"
    assert len(lines) == CHUNK + 9
    assert not (run / "predictions" / "-").exists()


def test_a_prediction_file_replaces_the_last_one(run: Path, asked: Path) -> None:
    first = predict(run, [asked]).path.read_bytes()
    assert predict(run, [asked]).path.read_bytes() == first


def test_each_kind_of_data_has_a_file_to_predict_from() -> None:
    sources = Path(data.__file__).parent.glob("*.py")
    assert {kind for path in sources for kind in re.findall(r'^ +kind="(\w+)"', path.read_text(), re.M)} == set(FILES)


def test_what_cannot_be_asked(run: Path, asked: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"a file of rows like those it was trained on; write 'dlrun predict {run} FILE'")
    ):
        predict(run)
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        predict(run, [tmp_path / "nowhere.csv"])
    with pytest.raises(StorageError, match="cannot be written"):
        predict(run, [asked], output=asked / "below" / "a.csv")
    with pytest.raises(ConfigError, match=r"asked\.csv is an input and would be lost"):
        predict(run, [asked], output=tmp_path)
    with pytest.raises(ConfigError, match="--count does not go with a run of task=classification; it takes files"):
        predict(run, [asked], wishes=Wishes(count=3))
    with pytest.raises(ConfigError, match="--prompt does not go with a run of task=classification; it takes files"):
        predict(run, wishes=Wishes(prompt="x"))
    assert asked.read_text().startswith("x,y\n")


def test_a_run_without_a_checkpoint_says_how_to_get_one(run: Path, asked: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    for path in (copy / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint yet; train it first: dlrun resume"):
        predict(copy, [asked])


def test_a_class_that_a_spreadsheet_would_run_is_made_harmless(tmp_path: Path) -> None:
    data = table(tmp_path / "table.csv", ("=cmd|calc", "b"))
    done = train_short(tmp_path / "outputs", "data=csv", f"data.path={data}", "trainer.steps=2")
    first = predict(done.path, [data]).path.read_text().splitlines()[0]
    assert first == "input,prediction,p(=cmd|calc),p(b)"
    every = {row["prediction"] for row in cells(done.path / "predictions" / "table.csv")}
    assert every <= {"'=cmd|calc", "b"}


# Stand-ins for the families that answer otherwise


class Shift(nn.Module):
    """Adds its one weight, a half."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


Ask = Callable[..., Any]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """``predict`` on a made-up run of this task and preprocessing."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")

    def ask(task: Any, preprocess: Any, *inputs: Path, features: tuple[str, ...] = (), **more: Any) -> Any:
        trained = SimpleNamespace(
            model=Shift(), task=task, preprocess=preprocess, precision=Precision(), device=torch.device("cpu"),
            facts=SimpleNamespace(name="made up", kind="image", features=features),
        )  # fmt: skip
        monkeypatch.setattr("dlrun.predict.restore", lambda path, trusted: trained)
        return predict(run, inputs, **more)

    return ask


def picture(path: Path, value: int = 100, side: int = 6, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), value if mode == "L" else (value, 0, 0)).save(path)
    return path


def first_pixel(path: Path) -> Any:
    with Image.open(path) as image:
        return image.getpixel((0, 0))


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


GREY = ImagePreprocess(mean=[0.0], std=[1.0], channels=1, size=(6, 6))


class Repaints:
    name = "reconstruction"
    answers = "images"

    def images(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return model(inputs)  # type: ignore[no-any-return]

    def rows(self, outputs: Tensor) -> list[list[dict[str, object]]]:
        return [[{"sum": round(value, 3)}] for value in outputs.flatten(1).sum(1).tolist()]


class Draws:
    name = "generation"
    answers = "images"

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def sample(self, model: nn.Module, count: int) -> Tensor:
        return torch.rand(count, *self.shape)


# Pictures


def test_each_picture_becomes_one(stand_in: Ask, tmp_path: Path) -> None:
    files = [
        picture(tmp_path / "a" / "x.png"),
        picture(tmp_path / "b" / "x.png", 20),
        picture(tmp_path / "b" / "y.png"),
    ]
    found = stand_in(Repaints(), GREY, files[0], tmp_path / "b")
    assert [path.name for path in found.pictures] == ["x.png", "x-2.png", "y.png"]
    assert found.path == tmp_path / "run" / "predictions"
    assert [first_pixel(path) for path in found.pictures] == [228, 148, 228]  # a half is 127.5
    assert found.rows[1] == {"input": "x.png", "width": 6, "height": 6, "picture": "x-2.png"}


def test_where_pictures_go(stand_in: Ask, tmp_path: Path) -> None:
    one, two = picture(tmp_path / "one.png"), picture(tmp_path / "two.png")
    assert stand_in(Repaints(), GREY, one, output=tmp_path / "new.png").path == tmp_path / "new.png"
    assert stand_in(Repaints(), GREY, one, output=tmp_path / "deep" / "er").path == tmp_path / "deep" / "er" / "one.png"
    with pytest.raises(ConfigError, match="is one file for 2 pictures; give a folder"):
        stand_in(Repaints(), GREY, one, two, output=tmp_path / "new.png")
    with pytest.raises(ConfigError, match=r"pictures are written as PNG: --output .*new\.png"):
        stand_in(Repaints(), GREY, one, output=tmp_path / "new.jpg")
    with pytest.raises(ConfigError, match="pictures cannot go to standard output"):
        stand_in(Repaints(), GREY, one, output=Path("-"))
    with pytest.raises(ConfigError, match=r"one\.png is an input and would be lost"):
        stand_in(Repaints(), GREY, one, output=tmp_path)
    with pytest.raises(StorageError, match="cannot be written"):
        stand_in(Repaints(), GREY, one, output=one / "below")
    assert first_pixel(one) == 100


def test_a_reconstruction_without_pictures_is_rows(stand_in: Ask, tmp_path: Path) -> None:
    class Numbers:
        def __call__(self, inputs: Tensor) -> Tensor:
            return inputs

        def read(self, path: Path) -> tuple[Tensor, list[str]]:
            return torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ["row 1", "row 2"]

    found = stand_in(Repaints(), Numbers(), tmp_path / "t.csv")
    assert cells(found.path) == [{"input": "row 1", "sum": "4.0"}, {"input": "row 2", "sum": "8.0"}]


def test_super_resolution_of_a_colour_picture(tmp_path: Path) -> None:
    for i in range(3):
        Image.effect_noise((30, 30), 60).save(tmp_path / f"{i}.png")
    config = ["data=superres", f"data.path={tmp_path}", "data.scale=2", "model=srcnn", "model.maps=[4,4]"]
    done = trained(tmp_path / "outputs", *config, "data.val=0.4")
    asked = tmp_path / "photo.jpg"
    Image.new("RGB", (20, 14), (200, 40, 90)).save(asked, quality=95)
    found = predict(done.path, [asked])
    with Image.open(found.path) as large:
        assert (large.size, large.mode) == ((40, 28), "RGB")
        assert large.getpixel((20, 14)) == pytest.approx((200, 40, 90), abs=4)
    picture(tmp_path / "grey.png", side=12)
    with Image.open(predict(done.path, [tmp_path / "grey.png"]).path) as large:
        assert (large.size, large.mode) == ((24, 24), "L")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing holds no picture"):
        predict(done.path, [tmp_path / "nothing"])
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n" + bytes(40))
    with pytest.raises(DataError, match=r"bad\.png"):
        predict(done.path, [tmp_path / "bad.png"])


# New examples


def test_a_generator_draws_a_sheet(stand_in: Ask, tmp_path: Path) -> None:
    found = stand_in(Draws(1, 6, 6), GREY, wishes=Wishes(count=5, seed=3))
    assert found.path == tmp_path / "run" / "predictions" / "samples.png"
    assert size(found.path) == (3 * 8 + 2, 2 * 8 + 2)
    first = found.path.read_bytes()
    assert stand_in(Draws(1, 6, 6), GREY, wishes=Wishes(count=5, seed=3)).path.read_bytes() == first
    assert stand_in(Draws(1, 6, 6), GREY, wishes=Wishes(count=5, seed=4)).path.read_bytes() != first
    assert size(stand_in(Draws(1, 6, 6), GREY).path) == (34, 34)  # sixteen without a word


def test_a_generator_of_points_writes_rows(stand_in: Ask) -> None:
    before = torch.get_rng_state()
    found = stand_in(Draws(2), object(), features=("x", "y"), wishes=Wishes(count=3))
    assert [set(row) for row in cells(found.path)] == [{"x", "y"}] * 3
    assert set(stand_in(Draws(3), object()).rows[0]) == {"x1", "x2", "x3"}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_takes_no_files(stand_in: Ask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task=generation takes no files, it draws new examples"):
        stand_in(Draws(1, 6, 6), GREY, picture(tmp_path / "a.png"))
    with pytest.raises(
        ConfigError, match="--length does not go with a run of task=generation; it takes --count, --seed"
    ):
        stand_in(Draws(1, 6, 6), GREY, wishes=Wishes(length=3))


# Texts


class Counts:
    """Goes on with the alphabet, one letter further each time."""

    name = "language_modelling"
    answers = "text"

    def continue_text(self, model: Any, tokens: Tensor, length: int, **more: Any) -> Tensor:
        self.more = more
        last = int(tokens[-1]) if len(tokens) else -1
        return (last + 1 + torch.arange(length)) % 26


LETTERS = LanguagePreprocess(Characters("abcdefghijklmnopqrstuvwxyz", unknown=False))


def test_a_language_model_goes_on(stand_in: Ask, tmp_path: Path) -> None:
    task = Counts()
    found = stand_in(task, LETTERS, wishes=Wishes(prompt="xy", length=4, temperature=0.0, top_k=2, seed=1))
    assert found.text == "xyzabc"
    assert found.path.read_text() == "xyzabc"
    assert found.path == tmp_path / "run" / "predictions" / "continuation.txt"
    assert (task.more["temperature"], task.more["top_k"]) == (0.0, 2)
    file = tmp_path / "prompt.txt"
    file.write_text("hell\n")
    assert stand_in(task, LETTERS, file, wishes=Wishes(length=1)).text == "hellm"
    assert len(stand_in(task, LETTERS).text) == 500
    assert task.more["temperature"] == 0.8


def test_a_text_that_is_refused(stand_in: Ask, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'!' is not in the text"):
        stand_in(Counts(), LETTERS, wishes=Wishes(prompt="hey!"))
    with pytest.raises(
        ConfigError, match="--count does not go with a run of task=language_modelling; it takes --prompt"
    ):
        stand_in(Counts(), LETTERS, wishes=Wishes(count=3))
    with pytest.raises(ConfigError, match="goes on with one text"):
        stand_in(Counts(), LETTERS, tmp_path / "a.txt", wishes=Wishes(prompt="hey"))


def test_a_text_to_classify(tmp_path: Path) -> None:
    rows = [f"{'good' if i % 2 else 'bad'}\t{'nice fine' if i % 2 else 'poor sad'} film {i}" for i in range(60)]
    table = tmp_path / "texts.tsv"
    table.write_text("label\ttext\n" + "\n".join(rows) + "\n")
    config = ["data=text_classification", f"data.path={table}", "model=lstm", "model.hidden=4"]
    done = trained(tmp_path / "outputs", *config)
    (row,) = predict(done.path, wishes=Wishes(prompt="nice film")).rows
    assert row["input"] == "nice film"
    assert row["prediction"] in ("good", "bad")
    asked = tmp_path / "asked.txt"
    asked.write_text("nice film\npoor film\n")
    both = predict(done.path, [asked]).rows
    assert [each["input"] for each in both] == ["nice film", "poor film"]
    assert both[0]["p(good)"] == pytest.approx(row["p(good)"], abs=1e-6)
    with pytest.raises(ConfigError, match="--prompt is blank"):
        predict(done.path, wishes=Wishes(prompt=" \n"))
    with pytest.raises(ConfigError, match="or --prompt TEXT"):
        predict(done.path)
