import json
from collections import Counter

import pytest
import sklearn.datasets
import torch

from dlrun.data import restore_preprocess, sklearn_sets
from dlrun.data.sklearn_sets import TABLES, Digits, SklearnTable
from dlrun.errors import ConfigError, DataError

TABLE_SETS = [SklearnTable(name=name) for name in TABLES]


@pytest.mark.parametrize(
    "data", [*TABLE_SETS, Digits(), Digits(val=0.0, test=0.5, seed=3)], ids=lambda d: d.facts().name
)
def test_facts_equal_what_is_loaded(data):
    facts, splits = data.facts(), data.load()
    assert splits.facts == facts
    for part, name in ((splits.train, "train"), (splits.val, "val"), (splits.test, "test")):
        assert len(part) == facts.sizes[name]
        ready = splits.preprocess(part.inputs)
        assert ready.dtype == torch.float32
        assert ready.shape == (len(part), *facts.input_shape)
        assert part.targets.shape == ((len(part),) if facts.classes else (len(part), facts.num_targets))
        assert part.targets.dtype == (torch.int64 if facts.classes else torch.float32)
    if facts.classes:
        assert sorted(Counter(splits.train.targets.tolist())) == list(range(facts.num_classes))


@pytest.mark.parametrize("data", [*TABLE_SETS, Digits()], ids=lambda d: d.facts().name)
def test_training_part_is_standardised(data):
    splits = data.load()
    ready = splits.preprocess(splits.train.inputs)
    axes = 0 if data.facts().kind == "table" else (0, 2, 3)
    assert ready.mean(axes).abs().max() < 1e-4
    assert (ready.std(axes, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("name", TABLES)
def test_names_are_scikit_learns(name):
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    assert tuple(bunch.feature_names) == TABLES[name].features
    if TABLES[name].classes:
        assert tuple(bunch.target_names) == TABLES[name].classes


def test_seed_decides_the_split_and_not_the_content():
    first, again, other = (SklearnTable(name="iris", seed=seed).load() for seed in (0, 0, 1))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert first.fingerprint == again.fingerprint == other.fingerprint
    assert first.fingerprint != SklearnTable(name="wine").load().fingerprint


def test_digits_are_raw_grey_levels():
    train = Digits().load().train
    assert train.inputs.dtype == torch.uint8
    assert (train.inputs.min(), train.inputs.max()) == (0, 16)


def test_diabetes_keeps_its_units():
    targets = SklearnTable(name="diabetes", val=0.0, test=0.0).load().train.targets
    assert (targets.min(), targets.max()) == (25.0, 346.0)


def test_predict_reads_a_file_of_features(tmp_path):
    splits = SklearnTable(name="iris").load()
    path = tmp_path / "flowers.csv"
    path.write_text("petal width (cm),petal length (cm),sepal width (cm),sepal length (cm)\n0.2,1.4,3.5,5.1\n")
    preprocess = restore_preprocess(json.loads(json.dumps(splits.preprocess.state())))
    inputs, names = preprocess.read(path)
    assert names == ["row 1"]
    everything = torch.cat([splits.train.inputs, splits.val.inputs, splits.test.inputs])
    assert (everything - inputs).abs().sum(1).min() < 1e-5  # the first flower of the set


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'iris'"):
        SklearnTable(name="irsi").facts()


@pytest.mark.parametrize("name", ["digits", *TABLES])
def test_the_files_hold_what_scikit_learn_reads_from_them(name):
    raw = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(sklearn.datasets, f"load_{name}")(**raw)
    inputs, targets = sklearn_sets._read(name, bunch.data.shape[1])
    assert torch.equal(inputs, torch.as_tensor(bunch.data, dtype=torch.float64))
    assert torch.equal(targets, torch.as_tensor(bunch.target, dtype=torch.float64))


def test_a_missing_file_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sklearn_sets.FILES, "digits", ("nowhere.csv",))
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read .*: install scikit-learn again"):
        Digits().load()
