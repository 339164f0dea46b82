"""Every YAML under configs/ composes with the rest, passes the check, and says in its first comment what it is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dlrun.allowlist import OWN
from dlrun.build import check
from dlrun.config import compose, config_dir, groups
from dlrun.config_words import SWEEP_KEYS
from dlrun.run import train
from family_cases import OVERRIDES
from quiet import Quiet

ROOT = config_dir()
FILES = sorted(path.relative_to(ROOT) for path in ROOT.glob("*/*.yaml"))
OF_A_RUN = [file for file in FILES if file.parent.name not in SWEEP_KEYS]  # tests/sweeps has those of a sweep
FLOORS = {
    "data": 28, "model": 26, "activation": 20, "loss": 12, "optimizer": 14, "schedule": 8, "task": 12, "precision": 4,
    "engine": 2, "debug": 4, "experiment": 27, "tracking": 2, "algorithm": 6, "trainer": 1,
    "sweep": 4, "launcher": 5,
}  # fmt: skip

# What a choice needs beside itself to make sense; {shared} is ../shared/data, and without it the choice only composes.
COMPANIONS = {
    "data/csv.yaml": ["data.path={shared}/titanic/train.csv", "data.target=Survived"],
    "data/image_folder.yaml": ["data.root={shared}/orl-faces/att_faces"],
    "data/webdataset.yaml": ["data.path={shards}"],
    "data/faces.yaml": ["data.root={shared}/orl-faces/att_faces"],
    "data/text_classification.yaml": ["data.path={shared}/names", "model=lstm"],
    "data/text.yaml": ["model=lstm"],
    "data/series.yaml": ["data.path={series}", "data.look_back=24", "data.horizon=6"],
    "data/audio_folder.yaml": ["data.root={shared}/fsdd/recordings"],
    "data/libsvm.yaml": ["data.path={shared}/libsvm/heart_scale"],
    "data/superres.yaml": [*OVERRIDES["srcnn"][1:], "model=srcnn"],
    "loss/bce.yaml": ["data=breast_cancer"],
    "loss/least_squares.yaml": ["model=gan"],
    "loss/non_saturating.yaml": ["model=gan"],
    "loss/wasserstein.yaml": ["model=gan"],
    "task/regression.yaml": ["data=diabetes"],
    "task/denoising.yaml": ["model=denoising"],
    "task/density.yaml": ["model=rbm"],
    "task/forecasting.yaml": OVERRIDES["dlinear"],
    "task/generation.yaml": ["model=gan"],
    "task/language_modelling.yaml": ["data=text", "model=lstm"],
    "task/max_margin.yaml": ["model=svm"],
    "task/reconstruction.yaml": ["model=autoencoder"],
    "task/super_resolution.yaml": [*OVERRIDES["srcnn"], "model=srcnn"],
    "task/variational.yaml": ["model=vae"],
    "algorithm/adversarial.yaml": ["model=gan"],
    "algorithm/contrastive_divergence.yaml": ["model=rbm"],
    "algorithm/layerwise.yaml": ["model=dbn"],
    "algorithm/truncated_backpropagation.yaml": ["data=text", "model=lstm"],
    "experiment/airline_passengers.yaml": ["data.path={shared}/series-small/airline-passengers.csv"],
    "experiment/ett_dlinear.yaml": ["data.path={shared}/ett/ETTh1.csv"],
    "experiment/faces.yaml": ["data.root={shared}/orl-faces/att_faces"],
    "experiment/names.yaml": ["data.path={shared}/names"],
    "experiment/spoken_digits.yaml": ["data.root={shared}/fsdd/recordings"],
    "experiment/srcnn_t91.yaml": ["data.path={shared}/superres/T91", "data.test_path={shared}/superres/Set5"],
    "experiment/sst2.yaml": ["data.path={shared}/sst2/stsa.binary.train"],
    "experiment/stock_prices.yaml": ["data.path={shared}/series-small/sp500-2000.csv"],
    "experiment/svm_a9a.yaml": ["data.path={shared}/libsvm/a9a", "data.test_path={shared}/libsvm/a9a.t"],
    "experiment/svm_gaussian_a9a.yaml": ["data.path={shared}/libsvm/a9a", "data.test_path={shared}/libsvm/a9a.t"],
} | {f"model/{name}.yaml": words for name, words in OVERRIDES.items()}  # fmt: skip
NO_NETWORK = [
    "digits",
    "iris",
    "wine",
    "breast_cancer",
    "diabetes",
    "circle",
    "xor",
    "gaussians",
    "spiral",
    "plane",
    "bumps",
]


def test_no_group_has_lost_files() -> None:
    counted = {group: len(options) for group, options in groups().items()}
    assert all(counted.get(group, 0) >= floor for group, floor in FLOORS.items()), counted
    assert set(counted) == set(FLOORS), "a new group needs a floor here"


@pytest.mark.parametrize("file", OF_A_RUN, ids=str)
def test_the_yaml_composes_and_passes_the_check(
    file: Path, family_files: dict[str, Path], shared_data_or_none: Path | None
) -> None:
    companions = COMPANIONS.get(file.as_posix(), [])
    words = [*companions, f"{file.parent.name}={file.stem}"]
    config = compose([word.format(**family_files, shared=shared_data_or_none or "absent") for word in words])
    if shared_data_or_none is None and any("{shared}" in word for word in words):
        return
    experiment = check(config)
    assert math.prod(experiment.task.out_shape()) >= 1


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_yaml_says_what_it_is(file: Path) -> None:
    option = next(o for o in groups()[file.parent.name] if o.name == file.stem)
    assert len(option.meaning) > 10


def test_every_shipped_target_is_on_the_allow_list_and_every_entry_is_used() -> None:
    text = "\n".join((ROOT / file).read_text() for file in FILES)
    named = {line.split()[1] for line in text.splitlines() if line.strip().startswith("_target_: dlrun.")}
    assert named | {"dlrun.tasks.classification.Classification"} == OWN


def _train(overrides: list[str], root: Path) -> dict[str, float]:
    config = compose([*overrides, "tracking=minimal", "trainer.limit={train: 100, val: 50, test: 50}"])
    return train(config, root=root, command=["dlrun"], reporter=Quiet()).metrics


@pytest.mark.parametrize("data", NO_NETWORK)
def test_every_data_set_that_needs_no_network_trains(data: str, tmp_path: Path) -> None:
    metrics = _train([f"data={data}", "trainer.steps=2"], tmp_path)
    assert {"test/loss", "val/loss"} <= set(metrics)


@pytest.mark.parametrize("optimizer", [option.name for option in groups()["optimizer"]])
def test_every_optimizer_lowers_the_training_loss(optimizer: str, tmp_path: Path) -> None:
    steps = {"lbfgs": 5, "radam": 150}.get(optimizer, 60)  # radam begins with steps that are not adaptive
    overrides = [f"optimizer={optimizer}", f"trainer.steps={steps}", "trainer.evaluate_steps=1000"]
    config = compose([*overrides, "tracking=minimal", "tracking.every=1", "model.hidden=[32]"])
    outcome = train(config, root=tmp_path, command=["dlrun"], reporter=Quiet())
    assert outcome.metrics["train/loss"] < 2.0  # ln 10 = 2.303 before training


@pytest.mark.parametrize("loss", [option.name for option in groups()["loss"]])
def test_every_loss_trains_where_it_belongs(loss: str, tmp_path: Path) -> None:
    if loss in ("least_squares", "non_saturating", "wasserstein"):
        assert "test/modes" in _train(["data=ring", "model=gan", f"loss={loss}", "trainer.steps=3"], tmp_path)
        return
    data = "diabetes" if loss in ("mse", "mae", "huber") else "breast_cancer"
    assert "test/loss" in _train([f"data={data}", f"loss={loss}", "trainer.steps=3"], tmp_path)


@pytest.mark.parametrize("activation", [option.name for option in groups()["activation"]])
def test_every_activation_trains(activation: str, tmp_path: Path) -> None:
    assert "test/loss" in _train([f"activation={activation}", "trainer.steps=3", "model.hidden=[8]"], tmp_path)


@pytest.mark.parametrize("schedule", [option.name for option in groups()["schedule"]])
def test_every_schedule_trains_with_warm_up(schedule: str, tmp_path: Path) -> None:
    overrides = [f"schedule={schedule}", "schedule.warmup=0.2", "trainer.steps=10", "trainer.evaluate_steps=2"]
    assert "test/loss" in _train(overrides, tmp_path)


@pytest.mark.parametrize("preset", [option.name for option in groups()["debug"]])
def test_every_debug_preset_trains(preset: str, tmp_path: Path) -> None:
    config = compose([f"debug={preset}", "model.hidden=[64]", "tracking=minimal"])
    outcome = train(config, root=tmp_path, command=["dlrun"], reporter=Quiet())
    if preset == "overfit":
        assert outcome.metrics["train/loss"] < 0.02
