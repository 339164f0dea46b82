import gzip

import numpy as np
import pytest
import torch

from dlrun.data import idx_files
from dlrun.data.idx_files import FILES, SETS, IdxImages, read_idx
from dlrun.data.image_sets import Known
from dlrun.errors import ConfigError, DataError


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A whole MNIST of 40 and 10 examples under tmp_path."""
    monkeypatch.setitem(SETS, "mnist", Known("MNIST/raw", (1, 28, 28), tuple("0123456789"), 40, 10))
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for (images, labels), count in zip(FILES.values(), (40, 10), strict=True):
        (folder / images).write_bytes(idx(random.integers(0, 256, (count, 28, 28), dtype=np.uint8)))
        (folder / f"{labels}.gz").write_bytes(gzip.compress(idx(np.arange(count, dtype=np.uint8) % 10)))
    return tmp_path


def load(root, **settings):
    return IdxImages(name="mnist", root=str(root), download=False, **settings).load()


def test_facts_are_those_of_the_loaded_data(tiny):
    data = IdxImages(name="mnist", root=str(tiny), val=0.25)
    splits = data.load()
    assert data.facts() == splits.facts
    sizes = {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}
    assert splits.facts.sizes == sizes == {"train": 30, "val": 10, "test": 10}
    assert torch.bincount(splits.val.targets).tolist() == [1] * 10
    assert splits.train.inputs.shape == (30, 1, 28, 28)
    assert splits.train.inputs.dtype == torch.uint8
    assert splits.train.targets.dtype == torch.int64
    ready = splits.preprocess(splits.train.inputs)
    assert abs(ready.mean().item()) < 1e-5


def test_plain_and_gzipped_files_are_the_same_data(tiny):
    before = load(tiny)
    for path in (tiny / "MNIST/raw").iterdir():
        if path.suffix != ".gz":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    after = load(tiny)
    assert before.fingerprint == after.fingerprint
    assert torch.equal(before.train.inputs, after.train.inputs)


def test_the_fingerprint_sees_one_changed_pixel(tiny):
    before = load(tiny).fingerprint
    path = tiny / "MNIST/raw" / FILES["test"][0]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert load(tiny).fingerprint != before


def test_the_split_follows_the_seed(tiny):
    assert torch.equal(load(tiny, seed=1).val.inputs, load(tiny, seed=1).val.inputs)
    assert not torch.equal(load(tiny, seed=1).val.inputs, load(tiny, seed=2).val.inputs)


def test_class_names_are_torchvisions():
    from torchvision import datasets

    assert list(SETS["fashion_mnist"].classes) == datasets.FashionMNIST.classes
    assert list(SETS["kmnist"].classes) == datasets.KMNIST.classes
    assert SETS["mnist"].classes == tuple("0123456789")
    for name, known in SETS.items():
        kind = known.folder.split("/")[0]
        assert hasattr(datasets, kind), name


def spoil(name, raw):
    return {
        "truncated": raw[:-5],
        "longer": raw + b"x",
        "foreign": b"\x89PNG" + raw[4:],
        "labels": idx(np.zeros(40, np.uint8)),
        "empty": b"",
        "short": raw[:6],
        "lying": raw[:4] + b"\xff" * 12 + raw[16:],
    }[name]


@pytest.mark.parametrize("name", ["truncated", "longer", "foreign", "labels", "empty", "short", "lying"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_file_is_named(tiny, name, zipped):
    path = tiny / "MNIST/raw" / FILES["train"][0]
    raw = spoil(name, path.read_bytes())
    if zipped:
        path.unlink()
        path = path.with_name(f"{path.name}.gz")
        raw = gzip.compress(raw)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=path.name):
        load(tiny)


@pytest.mark.parametrize("cut", [3, 12, -4])
def test_a_damaged_gzip_is_named(tiny, cut):
    path = tiny / "MNIST/raw" / f"{FILES['train'][1]}.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=path.name):
        load(tiny)


def test_files_of_another_data_set_are_refused(tiny):
    images, labels = FILES["train"]
    (tiny / "MNIST/raw" / images).write_bytes(idx(np.zeros((40, 14, 14), np.uint8)))
    with pytest.raises(DataError, match="training part of mnist"):
        load(tiny)
    (tiny / "MNIST/raw" / images).write_bytes(idx(np.zeros((40, 28, 28), np.uint8)))
    (tiny / "MNIST/raw" / labels).write_bytes(idx(np.full(40, 11, np.uint8)))
    with pytest.raises(DataError, match="label outside 0 to 9"):
        load(tiny)


def test_missing_files_without_download(tmp_path):
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    sentence = str(caught.value)
    assert "train-images-idx3-ubyte[.gz] of mnist is not in" in sentence
    assert str(tmp_path / "MNIST/raw") in sentence
    assert "`dlrun train data=mnist data.root=DIR`" in sentence
    assert "data.download is false" in sentence


@pytest.mark.parametrize("error", [OSError("<urlopen error no route>"), RuntimeError("Error downloading x:\nmore")])
def test_a_failed_download_says_why_in_one_sentence(tmp_path, monkeypatch, error):
    from torchvision import datasets

    def offline(root, download):
        assert (root, download) == (str(tmp_path), True)
        raise error

    monkeypatch.setattr(datasets, "KMNIST", offline)
    with pytest.raises(
        DataError, match=r"could not be downloaded \(.*`dlrun train data=kmnist data\.root=DIR`"
    ) as caught:
        IdxImages(name="kmnist", root=str(tmp_path)).load()
    assert "\n" not in str(caught.value)


def test_missing_files_are_fetched(tiny, monkeypatch, capsys):
    from torchvision import datasets

    path = tiny / "MNIST/raw" / FILES["test"][0]
    raw = path.read_bytes()
    path.unlink()

    def download(root, download):
        print("Downloading")
        path.write_bytes(raw)

    monkeypatch.setattr(datasets, "MNIST", download)
    assert len(IdxImages(name="mnist", root=str(tiny)).load().test) == 10
    assert capsys.readouterr().out == ""  # standard output belongs to the command's result


def test_the_root_falls_back_to_the_environment(tiny, monkeypatch):
    monkeypatch.setenv("DLRUN_DATA", str(tiny))
    assert len(IdxImages(name="mnist", download=False).load().test) == 10


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'fashion_mnist'"):
        IdxImages(name="fashion-mnst")


def test_facts_read_nothing(monkeypatch):
    monkeypatch.setattr(idx_files, "data_root", None)
    facts = IdxImages(name="fashion_mnist", root="/nowhere").facts()
    assert facts.sizes == {"train": 54000, "val": 6000, "test": 10000}
    assert facts.input_shape == (1, 28, 28)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_published_files(name, shared_data):
    data = IdxImages(name=name, root=str(shared_data), download=False)
    splits = data.load()
    assert data.facts() == splits.facts
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [54000, 6000, 10000]
    published = torch.bincount(torch.cat([splits.train.targets, splits.val.targets]))
    assert (torch.bincount(splits.val.targets) - published / 10).abs().max() < 1
    if name == "mnist":  # the widely quoted statistics of all 60,000
        assert splits.preprocess.mean[0] == pytest.approx(0.1307, abs=0.001)
        assert splits.preprocess.std[0] == pytest.approx(0.3081, abs=0.001)


def test_read_idx_gives_an_array_of_its_own(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(array))
    out = read_idx(tmp_path / "a", 3)
    assert (out == array).all()
    assert out.flags.writeable
