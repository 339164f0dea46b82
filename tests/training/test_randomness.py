"""Every stream seeded, saved and restored."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrun.training.checkpoint import read, write
from dlrun.training.randomness import random_state, restore_random_state, seed_everything


def draw() -> tuple[float, float, float, float]:
    """One number from each stream; numpy's normal keeps a second one back."""
    return random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))


def test_the_same_seed_gives_the_same_numbers() -> None:
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_a_seed_beyond_numpy_s_range_is_taken() -> None:
    seed_everything(2**64 - 1)
    first = draw()
    seed_everything(2**64 - 1)
    assert draw() == first


def test_the_state_survives_a_checkpoint_file(tmp_path: Path) -> None:
    seed_everything(1)
    draw()
    write(tmp_path / "a.ckpt", {"random": random_state()})
    expected = [draw() for _ in range(3)]
    seed_everything(99)
    restore_random_state(read(tmp_path / "a.ckpt")["random"])
    assert [draw() for _ in range(3)] == expected


def test_asking_for_the_state_draws_nothing() -> None:
    seed_everything(1)
    expected = draw()
    seed_everything(1)
    random_state()
    assert draw() == expected


def test_a_state_of_more_gpus_than_are_here_is_restored_for_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["a", "b", "c"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.extend)
    restore_random_state(random_state())
    assert given == ["a", "b"]
