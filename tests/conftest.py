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


@pytest.fixture(scope="session")
def family_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A series of 200 rows, a folder of six pictures, and a shard of them."""
    import tarfile

    import torch
    from PIL import Image

    folder = tmp_path_factory.mktemp("families")
    rows = [f"2020-01-01 {i // 60:02d}:{i % 60:02d},{i % 7},{(i * i) % 11}" for i in range(200)]
    (folder / "series.csv").write_text("\n".join(["date,a,b", *rows]) + "\n")
    source = torch.Generator().manual_seed(0)
    for part in ("images", "more"):
        (folder / part).mkdir()
        for i in range(6):
            pixels = torch.randint(0, 256, (40, 36, 3), dtype=torch.uint8, generator=source)
            Image.fromarray(pixels.numpy()).save(folder / part / f"{i}.png")
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for i in range(6):
            (folder / "label.cls").write_text(str(i % 2))
            shard.add(folder / "images" / f"{i}.png", f"{i}.png")
            shard.add(folder / "label.cls", f"{i}.cls")
    return {
        "series": folder / "series.csv",
        "images": folder / "images",
        "more": folder / "more",
        "shards": folder / "shard.tar",
    }
