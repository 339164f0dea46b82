import hashlib
import pickle

import numpy as np
import pytest
import torch

from dlrun.data.image_sets import Known
from dlrun.data.torchvision_sets import FILES, SETS, TorchvisionImages
from dlrun.errors import ConfigError, DataError

NAMES = ["cifar10", "cifar100", "svhn"]
TRAIN, TEST = 50, 20


def small(name):
    known = SETS[name]
    return Known(known.folder, known.shape, known.classes, TRAIN, TEST)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def images(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def write_cifar(folder, name, monkeypatch):
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = folder / SETS[name].folder
    folder.mkdir()
    key = "labels" if name == "cifar10" else "fine_labels"
    lists = {"train_list": FILES[name][:-2], "test_list": FILES[name][-2:-1]}
    for attribute, files in lists.items():
        for seed, file in enumerate(files):
            count = TEST if attribute == "test_list" else TRAIN // len(files)
            pixels = images(count, seed).reshape(count, -1)
            (folder / file).write_bytes(pickle.dumps({"data": pixels, key: [n % 10 for n in range(count)]}))
        monkeypatch.setattr(kind, attribute, [[file, md5(folder / file)] for file in files])
    meta = folder / FILES[name][-1]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: list(SETS[name].classes)}))
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(meta)})


def write_svhn(folder, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    entries = {}
    for part, count in (("train", TRAIN), ("test", TEST)):
        path = folder / f"{part}_32x32.mat"
        labels = np.arange(count, dtype=np.uint8).reshape(-1, 1) % 10 + 1  # SVHN writes the digit 0 as 10
        savemat(path, {"X": images(count, 0).transpose(2, 3, 1, 0), "y": labels})
        entries[part] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", entries)


@pytest.fixture(params=NAMES)
def tiny(request, tmp_path, monkeypatch):
    name = request.param
    monkeypatch.setitem(SETS, name, small(name))
    if name == "svhn":
        write_svhn(tmp_path, monkeypatch)
    else:
        write_cifar(tmp_path, name, monkeypatch)
    return name, tmp_path


def test_facts_are_those_of_the_loaded_data(tiny):
    name, root = tiny
    data = TorchvisionImages(name=name, root=str(root), val=0.2, augment={"crop": 4})
    splits = data.load()
    assert data.facts() == splits.facts
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [40, 10, 20]
    assert torch.bincount(splits.val.targets).tolist() == [1] * 10
    assert splits.test.inputs.dtype == torch.uint8
    assert torch.equal(splits.test.inputs, torch.from_numpy(images(TEST, 0)))
    assert splits.test.targets[9] == (0 if name == "svhn" else 9)
    assert splits.test.inputs.is_contiguous()
    assert data.augment.crop == 4


def test_a_damaged_file_is_refused(tiny):
    name, root = tiny
    path = root / SETS[name].folder / FILES[name][0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"train part of {name} in .* is damaged"):
        TorchvisionImages(name=name, root=str(root)).load()


def test_files_of_another_size_are_refused(tiny, monkeypatch):
    name, root = tiny
    monkeypatch.setitem(SETS, name, Known(SETS[name].folder, (3, 32, 32), SETS[name].classes, 51, TEST))
    with pytest.raises(DataError, match=f"training part of {name}"):
        TorchvisionImages(name=name, root=str(root)).load()


@pytest.mark.parametrize("name", NAMES)
def test_missing_files(name, tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        TorchvisionImages(name=name, root=str(tmp_path), download=False).load()
    sentence = str(caught.value)
    assert f"{FILES[name][0]} of {name} is not in {tmp_path}" in sentence
    assert f"`dlrun train data={name} data.root=DIR`" in sentence

    def offline(*_, **__):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(TorchvisionImages, "_open", offline)
    with pytest.raises(DataError, match=r"could not be downloaded \(<urlopen error"):
        TorchvisionImages(name=name, root=str(tmp_path)).load()


def test_the_constants_are_the_published_ones():
    facts = {name: TorchvisionImages(name=name).facts() for name in NAMES}
    assert facts["cifar10"].sizes == {"train": 45000, "val": 5000, "test": 10000}
    assert facts["svhn"].sizes == {"train": 65931, "val": 7326, "test": 26032}
    assert facts["cifar100"].num_classes == 100
    assert list(facts["cifar100"].classes) == sorted(set(facts["cifar100"].classes))
    assert {shape.input_shape for shape in facts.values()} == {(3, 32, 32)}


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cifar10'"):
        TorchvisionImages(name="cifar-10")
