from __future__ import annotations

import pytest
import torch

from dlrun.data.ring import Ring
from dlrun.errors import ConfigError


def test_facts_equal_what_is_loaded() -> None:
    data = Ring(modes=5, examples=1001, val=0.2, test=0.3)
    facts, splits = data.facts(), data.load()
    assert splits.facts == facts
    assert facts.kind == "points"
    assert facts.classes == ("cloud 1", "cloud 2", "cloud 3", "cloud 4", "cloud 5")
    for part, size in zip((splits.train, splits.val, splits.test), facts.sizes.values(), strict=True):
        assert len(part) == size
        assert part.inputs.shape == (size, 2)
        assert torch.equal(splits.preprocess(part.inputs), part.inputs)


def test_the_clouds_are_where_they_should_be() -> None:
    splits = Ring(modes=8, radius=2.0, deviation=0.05, examples=8000).load()
    x, y = splits.train.inputs, splits.train.targets
    for k in range(8):
        cloud = x[y == k]
        angle = torch.tensor(2 * torch.pi * k / 8)
        centre = 2 * torch.stack([angle.cos(), angle.sin()])
        # about 790 points: four standard errors of a mean are 0.007, of a deviation 10 %
        assert (cloud.mean(0) - centre).abs().max() < 0.0075
        assert ((cloud.std(0) / 0.05 - 1).abs() < 0.1).all()
        assert abs(len(cloud) - 810) < 2  # 0.9 of 0.9 of 1,000


def test_the_seed_decides() -> None:
    first, again, other = (Ring(seed=seed, examples=100).load() for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(first.train.inputs, again.train.inputs)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"modes": 1}, r"data\.modes=1"),
        ({"radius": 0.0}, r"data\.radius=0"),
        ({"deviation": -1.0}, r"data\.deviation=-1"),
        ({"examples": 79}, r"data\.examples=79"),
        ({"val": 1.5}, r"data\.val"),
    ],
)
def test_keys_out_of_range_are_refused(keys: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Ring(**keys).facts()


def test_predict_reads_points(tmp_path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("x,y\n1,2\n-3,4.5\n")
    inputs, _ = Ring().load().preprocess.read(path)
    assert inputs.tolist() == [[1.0, 2.0], [-3.0, 4.5]]
