import numpy as np
import pytest
import torch

from dlrun.data import playground
from dlrun.data.playground import CLASSIFICATION, REGRESSION, Playground
from dlrun.errors import ConfigError, DlrunError

NAMES = [*CLASSIFICATION, *REGRESSION]


def make(name: str, noise: float = 0.0, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    return getattr(playground, name)(n, noise, np.random.default_rng(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keys", [{}, {"examples": 301, "train": 0.8, "val": 0.2, "noise": 0.5}, {"train": 1.0}])
def test_facts_equal_what_is_loaded(name, keys):
    data = Playground(name=name, **keys)
    facts, splits = data.facts(), data.load()
    assert splits.facts == facts
    assert facts.kind == "points"
    for part, size in zip((splits.train, splits.val, splits.test), facts.sizes.values(), strict=True):
        assert len(part) == size
        assert part.inputs.shape == (size, 2)
        assert part.inputs.dtype == torch.float32
        assert torch.equal(splits.preprocess(part.inputs), part.inputs)
        assert part.targets.shape == ((size,) if name in CLASSIFICATION else (size, 1))


@pytest.mark.parametrize("name", NAMES)
def test_default_sizes_are_playgrounds(name):
    sizes = Playground(name=name).facts().sizes
    assert sum(sizes.values()) == (500 if name in CLASSIFICATION else 1200)
    assert sizes["test"] == sum(sizes.values()) / 2


def test_circle():
    points, labels = make("circle")
    radius = np.hypot(*points.T)
    assert ((radius < 2.5) == (labels > 0)).all()
    assert (radius[labels < 0] >= 3.5).all()
    assert radius.max() <= 5
    assert labels.sum() == 0


def test_xor():
    points, labels = make("xor")
    assert (np.sign(points.prod(axis=1)) == labels).all()
    assert np.abs(points).min() >= 0.3
    assert np.abs(points).max() <= 5.3


@pytest.mark.parametrize(("noise", "variance"), [(0.0, 0.5), (0.5, 4.0)])
def test_gaussians(noise, variance):
    points, labels = make("gaussians", noise, 20_000)
    away = points - 2 * labels[:, None]
    assert np.abs(away.mean(axis=0)).max() < 0.06  # four standard errors of the mean at variance 4
    assert abs(away.var() / variance - 1) < 0.05


def test_spiral():
    points, labels = make("spiral")
    arm = np.arange(200)
    angle = 1.75 * arm / 200 * 2 * np.pi
    expected = np.stack([arm / 200 * 5 * np.sin(angle), arm / 200 * 5 * np.cos(angle)], axis=1)
    assert np.allclose(points[labels > 0], expected)
    assert np.allclose(points[labels < 0], -expected)  # half a turn further


def test_plane():
    points, values = make("plane")
    assert np.allclose(values, points.sum(axis=1) / 10)
    assert np.abs(points).max() <= 6


def test_bumps():
    points, values = make("bumps", n=4000)
    for x, y, sign in playground.BUMPS:
        near = np.hypot(points[:, 0] - x, points[:, 1] - y) < 0.5
        assert near.any()
        assert (values[near] * sign >= 0.75).all()
    far = np.min([np.hypot(points[:, 0] - x, points[:, 1] - y) for x, y, _ in playground.BUMPS], axis=0) > 2
    assert (values[far] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_noise_moves_labels_or_points_and_seed_decides(name):
    clean, again, other = (Playground(name=name, seed=seed).load() for seed in (0, 0, 1))
    noisy = Playground(name=name, noise=0.5).load()
    assert clean.fingerprint == again.fingerprint
    assert torch.equal(clean.train.inputs, again.train.inputs)
    assert len({clean.fingerprint, other.fingerprint, noisy.fingerprint}) == 3


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"name": "spirla"}, "did you mean 'spiral'"),
        ({"name": "xor", "noise": 20}, "data.noise=20"),
        ({"name": "xor", "train": 0.0}, "data.train=0"),
        ({"name": "xor", "train": 50}, "data.train=50"),
        ({"name": "xor", "examples": 3}, "data.examples=3"),
    ],
)
def test_keys_out_of_range_are_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        Playground(**keys).facts()


def test_validation_share_out_of_range_is_refused():
    with pytest.raises(DlrunError, match=r"data\.val"):
        Playground(name="xor", val=1.5).facts()


def test_predict_reads_points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("x,y\n1,2\n-3,4.5\n")
    inputs, _ = Playground(name="xor").load().preprocess.read(path)
    assert inputs.tolist() == [[1.0, 2.0], [-3.0, 4.5]]
