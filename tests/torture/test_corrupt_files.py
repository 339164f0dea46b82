"""A damaged checkpoint never loads: flips in header and data, cuts, zeroed pages, files in the wrong place."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dlrun.errors import CheckpointError
from dlrun.training.checkpoint import Checkpoints, encode, read

FLIPS = 20_000 if os.environ.get("DLRUN_TORTURE") == "long" else 1_000
CUTS = 200


def state(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(64, 96, generator=generator)
    return {"model": {"weight": weight, "steps": torch.tensor(step)}, "step": step, "rate": 0.1, "names": ("a", "b")}


@pytest.fixture(scope="module")
def good() -> bytes:
    return b"".join(encode(state(1), 1))


def loads(path: Path, data: bytes) -> bool:
    """Whether ``data`` loads from ``path``; anything but a sentence that names the file is an error of the test."""
    path.write_bytes(data)
    try:
        read(path)
    except CheckpointError as error:
        sentence = str(error)
    else:
        return True
    assert str(path) in sentence
    assert "\n" not in sentence
    return False


def header_size(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def test_the_good_file_loads_and_safetensors_alone_would_load_a_flipped_one(tmp_path: Path, good: bytes) -> None:
    assert loads(tmp_path / "a.ckpt", good)
    assert safetensors.torch.load(flipped(good, len(good) - 10, 3)).keys() == {"model.weight", "model.steps"}


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_a_flip_in_any_byte_of_the_header_is_refused(tmp_path: Path, good: bytes, bit: int) -> None:
    cases = range(header_size(good))
    assert [p for p in cases if loads(tmp_path / "a.ckpt", flipped(good, p, bit))] == []


def test_a_flipped_bit_in_the_data_is_refused(tmp_path: Path, good: bytes) -> None:
    choose = random.Random(0)
    start = header_size(good)
    cases = [(choose.randrange(start, len(good)), choose.randrange(8)) for _ in range(FLIPS)]
    assert [case for case in cases if loads(tmp_path / "a.ckpt", flipped(good, *case))] == []


def test_every_cut_and_every_addition_is_refused(tmp_path: Path, good: bytes) -> None:
    lengths = [0, 1, 7, 8, 9, header_size(good), len(good) - 1, *range(0, len(good), len(good) // CUTS)]
    assert [n for n in lengths if loads(tmp_path / "a.ckpt", good[:n])] == []
    assert not loads(tmp_path / "a.ckpt", good + b"\0")


def test_zeroed_and_swapped_pages_are_refused(tmp_path: Path, good: bytes) -> None:
    page = 4096
    for start in range(0, len(good), page):
        end = min(start + page, len(good))
        assert not loads(tmp_path / "a.ckpt", good[:start] + bytes(end - start) + good[end:])
    assert not loads(
        tmp_path / "a.ckpt", good[:page] + good[2 * page : 3 * page] + good[page : 2 * page] + good[12288:]
    )


def replaced(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "link":
        other = path.parent.parent / "elsewhere.ckpt"
        other.write_bytes(b"".join(encode(state(9), 2)))
        path.symlink_to(other)
    else:
        path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "link", "dangling link"])
def test_what_is_no_ordinary_file_is_refused_and_the_earlier_one_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 108 bytes
    checkpoints = Checkpoints(Path("c"))
    checkpoints.save(1, state(1))
    replaced(checkpoints.save(2, state(2)), kind)
    found = checkpoints.newest()
    assert found is not None
    assert found[0]["step"] == 1
    assert len(found[2]) == 1
    assert "step-00000002.ckpt" in found[2][0]


def test_files_of_two_steps_that_changed_places_are_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    first, second = checkpoints.save(1, state(1)), checkpoints.save(2, state(2))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(CheckpointError, match=r"holds step 1, .*holds step 2, "):
        checkpoints.newest()
    first.write_bytes(one)
    found = checkpoints.newest()
    assert found is not None
    assert (found[0]["step"], found[1]) == (1, first)


def test_falls_back_and_says_which_and_why(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    second = checkpoints.save(2, state(2))
    second.write_bytes(flipped(second.read_bytes(), 5000, 1))
    found = checkpoints.newest()
    assert found is not None
    assert torch.equal(found[0]["model"]["weight"], state(1)["model"]["weight"])
    assert found[2] == [f"the checkpoint {second} is damaged: its digest does not match its bytes"]
    (tmp_path / "step-00000001.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used: .*00000002.*00000001"):
        checkpoints.newest()
