"""Frozen config files: composing from them gives the same, whatever is edited later."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dlrun.config import compose, config_dir
from dlrun.errors import ConfigError, StorageError
from dlrun.sweeps import frozen
from dlrun.sweeps.frozen import freeze, frozen_dirs
from dlrun.sweeps.points import Composer
from dlrun.sweeps.space import read_space


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def model(folder: Path, hidden: int) -> Path:
    return write(folder / "model" / "mine.yaml", f"# Mine\n_target_: dlrun.models.mlp.MLP\nhidden: [{hidden}]\n")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_edits_after_the_freeze_change_nothing(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    mine, other = model(one, 3), model(two, 4)
    write(two / "optimizer" / "theirs.yaml", "# Theirs\n_target_: torch.optim.Adam\nlr: 0.25\n")
    words = ["model=mine", "optimizer=theirs"]
    before = compose(words, [one, two])
    freeze([one, two], tmp_path / "configs")
    users, shipped = frozen_dirs(tmp_path / "configs")
    mine.write_text("broken: [")
    other.unlink()
    assert compose(words, users, shipped) == before
    assert before.model.hidden == [3]
    composer = Composer(users, shipped)
    [point] = composer.grid(read_space(words, users, shipped))
    assert composer.config(point, 0) == before
    write(shipped / "model" / "mlp.yaml", "# Changed\n_target_: dlrun.models.mlp.MLP\nhidden: [99]\n")
    assert compose([], users, shipped).model.hidden == [99]  # the copy is read in place of dlrun's own


def test_dlrun_s_own_files_are_copied_whole(tmp_path: Path) -> None:
    freeze([], tmp_path / "configs")
    assert frozen_dirs(tmp_path / "configs") == ([], tmp_path / "configs" / "0")
    assert names(tmp_path / "configs" / "0") == names(config_dir())
    assert not (tmp_path / "configs.part").exists()


def test_only_config_files_are_copied(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    model(mine, 3)
    for name in (
        "data.csv",
        "model/weights.bin",
        ".git/a.yaml",
        "__pycache__/b.yaml",
        "run/config.yaml",
        "run/run.json",
    ):
        write(mine / name, "x: 1\n")
    write(mine / "train.yaml", "# Mine\n")
    write(mine / "model" / "deep" / "er.yaml", "x: 1\n")
    write(mine / "sweeps" / "sweep.json", "{}")
    write(mine / "sweeps" / "configs" / "0" / "x.yaml", "x: 1\n")
    freeze([mine], tmp_path / "configs")
    assert names(tmp_path / "configs" / "0") == {"train.yaml", "model/mine.yaml", "model/deep/er.yaml"}


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    model(elsewhere, 5)
    mine.mkdir()
    (mine / "model").symlink_to(elsewhere / "model")
    (mine / "loop").symlink_to(mine)
    (mine / "dead.yaml").symlink_to(tmp_path / "nowhere.yaml")
    freeze([mine], tmp_path / "configs")
    assert names(tmp_path / "configs" / "0") == {"model/mine.yaml"}
    assert not (tmp_path / "configs" / "0" / "model").is_symlink()
    users, shipped = frozen_dirs(tmp_path / "configs")
    assert compose(["model=mine"], users, shipped).model.hidden == [5]


def test_ten_folders_keep_their_order(tmp_path: Path) -> None:
    folders = [tmp_path / f"folder{i}" for i in range(11)]
    for i, folder in enumerate(folders):
        model(folder, i + 1)
    freeze(folders, tmp_path / "configs")
    users, shipped = frozen_dirs(tmp_path / "configs")
    assert [path.name for path in (*users, shipped)] == [str(i) for i in range(12)]
    assert compose(["model=mine"], users, shipped).model.hidden == [1]


def test_a_folder_that_is_too_big_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        freeze([tmp_path / "nowhere"], tmp_path / "configs")
    assert not (tmp_path / "configs").exists()
    for i in range(5):
        write(tmp_path / "many" / f"{i}.yaml", "x: 1\n")
        write(tmp_path / "big" / f"{i}.bin", "")
    for name, limit in (("many", "MOST_FILES"), ("big", "MOST_SEEN")):
        with monkeypatch.context() as patch:
            patch.setattr(frozen, limit, 4)
            with pytest.raises(ConfigError, match="too many files; name the folder"):
                freeze([tmp_path / name], tmp_path / "configs")
    assert not (tmp_path / "configs").exists()


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    model(mine, 3)
    real = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "mine.yaml":
            raise PermissionError(13, os.strerror(13), str(path))
        return real(path)

    def full(path: Path, content: bytes) -> int:
        raise OSError(28, os.strerror(28), str(path))

    for name, fault, kind, told in (
        ("read_bytes", refuse, ConfigError, r"mine\.yaml cannot be read: Permission denied"),
        ("write_bytes", full, StorageError, r"cannot be written: No space left"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, fault)
            with pytest.raises(kind, match=told):
                freeze([mine], tmp_path / "configs")
    freeze([mine], tmp_path / "configs")  # what was left half done is no obstacle
    assert frozen_dirs(tmp_path / "configs")[0][0].name == "0"


def test_a_sweep_that_lost_its_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config files of this sweep are missing"):
        frozen_dirs(tmp_path / "configs")
