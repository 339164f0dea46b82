"""What every test gets: one computing thread, fixed seeds, none of the user's settings; shared data where it is."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

# Before torch loads: two workers with two threads each on two cores run ten times slower than with one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _fixed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLRUN_OUTPUTS", raising=False)
    monkeypatch.delenv("DLRUN_CONFIG_PATH", raising=False)
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this clone."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the clone; a test that needs them is skipped where they are not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside this clone")
    return SHARED_DATA


@pytest.fixture(scope="session")
def shared_data_or_none() -> Path | None:
    """The same, for a test that goes on without them."""
    return SHARED_DATA if SHARED_DATA.is_dir() else None
