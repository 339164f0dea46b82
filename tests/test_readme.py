"""Every command in README.md works: run as written, cut short, in a folder with files of the names it uses."""

from __future__ import annotations

import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from dlrun.cli.main import main

README = Path(__file__).resolve().parents[1] / "README.md"
SHORT = ["trainer.limit={train: 600, val: 30, test: 30}", "trainer.epochs=1", "trainer.steps=2", "tracking=minimal"]

# What would take long beyond its steps: another network to train, thousands of landmarks, a long annealing.
SHORTER = {
    "dcgan": ["task.classifier_steps=5"],
    "svm_gaussian_mnist": ["model.components=50"],
    "svm_gaussian_a9a": ["model.components=50"],
    "rbm_": ["task.ais_steps=50"],
    "dbm_": ["algorithm.steps_per_layer=0"],
}


def commands() -> list[str]:
    """Commands in shell blocks, in tables and in indented blocks; comments cut off."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"\| `(dlrun [^`]+)` \|$", text, re.M)
    lines += re.findall(r"^    (dlrun .*)$", text, re.M)
    return [line.split("  #")[0].strip() for line in lines if line.strip().startswith("dlrun ")]


def test_the_commands_are_found() -> None:
    assert len(commands()) >= 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name."""
    here = tmp_path_factory.mktemp("readme")
    for name in ("cats", "dogs"):
        (here / "photos" / name).mkdir(parents=True)
        for i in range(30):
            Image.new("RGB", (20, 16), (i * 8, 255 - i * 8, 100)).save(here / "photos" / name / f"{i}.png")
    lines = [f"{i % 50 + 20},{['east', 'west'][i % 2]},{(i % 50 + 20) * 1000 + i}" for i in range(200)]
    (here / "houses.csv").write_text("\n".join(["size,side,price", *lines]))
    (here / "new_houses.csv").write_text("side,size\neast,30\n")
    (here / "book.txt").write_text("Once upon a time there was a king who had a book.\n" * 60)
    (here / "reviews.csv").write_text("text,label\n" + "a good film,good\na bad film,bad\n" * 60)
    months = [f"{2000 + i // 12}-{i % 12 + 1:02d}-01,{i % 12 + i / 50}" for i in range(400)]
    (here / "sales.csv").write_text("\n".join(["month,sales", *months]))
    for name, pitch in (("high", 800), ("low", 200)):
        (here / "voices" / name).mkdir(parents=True)
        for i in range(12):
            tone = np.sin(np.arange(4000) * 2 * np.pi * (pitch + i) / 8000) * 20000
            wavfile.write(here / "voices" / name / f"{i}.wav", 8000, tone.astype(np.int16))
    (here / "shards").mkdir()
    for part in ("train", "test"):
        with tarfile.open(here / "shards" / f"{part}-000.tar", "w") as shard:
            for i, path in enumerate(sorted((here / "photos").glob("*/*.png"))):
                (here / "label.cls").write_text(str(i // 30))
                shard.add(path, f"{i:03d}.png")
                shard.add(here / "label.cls", f"{i:03d}.cls")
    (here / "conf" / "model").mkdir(parents=True)
    yaml = re.search(r"```yaml\n(# conf/model/mynet.yaml.*?)```", README.read_text(), re.S)
    assert yaml is not None
    (here / "conf" / "model" / "mynet.yaml").write_text(yaml.group(1))
    (here / "mynet.py").write_text(
        "from torch import nn\n"
        "def Net(width, in_features, out_features, activation):\n"
        "    layers = nn.Linear(in_features, width), activation(), nn.Linear(width, out_features)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    return here


@pytest.mark.parametrize("command", commands())
def test_the_command_works(
    command: str, folder: Path, shared_data_or_none: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DLRUN_OUTPUTS", str(tmp_path))
    if "last" in shlex.split(command):
        kind = "dlrun sweep" if "sweep" in command else "dlrun train"
        before = [c for c in commands()[: commands().index(command)] if c.startswith(kind) and "--" not in c]
        assert main(words_of(before[-1], shared_data_or_none)) == 0
    assert main(words_of(command, shared_data_or_none)) == 0


def words_of(command: str, data: Path | None) -> list[str]:
    """The command as it is run here: cut short, and with the data that lies beside the clone."""
    words = shlex.split(command)[1:]
    if words[:2] == ["resume", "last"]:
        return [*words, "trainer.steps=3"]
    if words[0] == "sweep" and "--resume" not in words:
        fewer = [re.sub(r"(sweep.trials|seeds)=\d+", r"\1=2", word).replace("range(8)", "range(2)") for word in words]
        return [*fewer, *SHORT, "launcher=local"]
    if words[0] != "train" or "--cfg" in words:
        return words
    shared = "../shared/data"
    if any("mnist" in word for word in words) and not any(shared in word for word in words):
        words.append(f"data.root={shared}")
    if any(shared in word for word in words) and data is None:
        pytest.skip("needs the data sets that are not beside this clone")
    shorter = [extra for part, extras in SHORTER.items() if part in command for extra in extras]
    return [word.replace(shared, str(data)) for word in words] + SHORT + shorter
