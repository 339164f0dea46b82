"""Mistakes a user makes: each refused before data is read, in one sentence, with the nearest name or the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlrun.build import check
from dlrun.config import compose
from dlrun.errors import ConfigError, DataError, DlrunError, RefusedError, StorageError
from dlrun.run import train

# (overrides, error, words the sentence must hold)
CASES: list[tuple[list[str], type[DlrunError], list[str]]] = [
    # groups and options
    (["modle=cnn"], ConfigError, ["modle", "did you mean 'model'"]),
    (["model=cnnn"], ConfigError, ["model=cnnn", "did you mean 'cnn'", "dlrun list model"]),
    (["model=zzz"], ConfigError, ["there are:", "mlp", "lenet5"]),
    (["optimizer=adm"], ConfigError, ["did you mean 'adam'"]),
    (["optimizer=Adam-W"], ConfigError, ["did you mean 'adamw'"]),
    (["data=mnst"], ConfigError, ["did you mean 'mnist'"]),
    (["data=fashion-mnist"], ConfigError, ["did you mean 'fashion_mnist'"]),
    (["loss=crossentropy"], ConfigError, ["did you mean 'cross_entropy'"]),
    (["activation=leaky-relu"], ConfigError, ["did you mean 'leaky_relu'"]),
    (["activation=rleu"], ConfigError, ["did you mean 'relu'"]),
    (["schedule=cosin"], ConfigError, ["did you mean 'cosine'"]),
    (["precision=float16"], ConfigError, ["precision=float16"]),
    (["engine=compild"], ConfigError, ["did you mean 'compile'"]),
    (["experiment=lenet5"], ConfigError, ["did you mean 'lenet5_mnist'"]),
    (["debug=overfitting"], ConfigError, ["did you mean 'overfit'"]),
    (["debug=null"], ConfigError, ["~debug"]),
    (["tracking=tensorbord"], ConfigError, ["did you mean 'tensorboard'"]),
    # keys
    (["optimizer.lrr=0.1"], ConfigError, ["'optimizer' has no key 'lrr'", "did you mean 'lr'"]),
    (["optimizer.learning_rate=0.1"], ConfigError, ["has no key 'learning_rate'"]),
    (["optimiser.lr=0.1"], ConfigError, ["did you mean 'optimizer'"]),
    (["trainer.epoch=3"], ConfigError, ["did you mean 'epochs'"]),
    (["trainer.batchsize=3"], ConfigError, ["did you mean 'batch_size'"]),
    (["epochs=3"], ConfigError, ["no group or key 'epochs'"]),
    (["lr=0.1"], ConfigError, ["no group or key 'lr'"]),
    (["model.hiden=[10]"], ConfigError, ["did you mean 'hidden'"]),
    (["model=cnn", "model.chanels=[8]"], ConfigError, ["did you mean 'channels'"]),
    (["data.pth=x.csv", "data=csv"], ConfigError, ["did you mean 'path'"]),
    (["trainer.limit.tran=1"], ConfigError, ["did you mean 'train'"]),
    (["+optimizer.momentm=0.9"], ConfigError, ["optimizer.momentm", "Adam takes no 'momentm'"]),
    (["optimizer=sgd", "+optimizer.momentumm=0.9"], ConfigError, ["takes no 'momentumm'", "did you mean 'momentum'"]),
    (["+model.width=3"], ConfigError, ["MLP takes no 'width'"]),
    (["+trainer.foo=3"], ConfigError, ["trainer.foo", "no such setting"]),
    (["hydra.run.dir=/tmp/x"], ConfigError, ["hydra", "closed", "--outputs"]),
    # types
    (["optimizer.lr=fast"], ConfigError, ["optimizer.lr=fast", "takes a number"]),
    (["optimizer.lr=true"], ConfigError, ["takes a number"]),
    (["trainer.seed=1.5"], ConfigError, ["trainer.seed", "whole number"]),
    (["trainer.accumulate=two"], ConfigError, ["takes a whole number"]),
    (["model.hidden=100"], ConfigError, ["takes a list", "model.hidden=[100]"]),
    (["model.hidden=[a,b]"], ConfigError, ["takes a whole number"]),
    (["model.hidden=[-3]"], ConfigError, ["model.hidden"]),
    (["model.batch_norm=maybe"], ConfigError, ["takes true or false"]),
    (["trainer.limit=5"], ConfigError, ["trainer.limit.NAME"]),
    (["trainer.detect_anomaly=3"], ConfigError, ["takes true or false"]),
    # grammar
    (["model"], ConfigError, ["cannot read 'model'"]),
    (["model=[cnn"], ConfigError, ["cannot read"]),
    (["optimizer.lr=0.1,0.2"], ConfigError, ["--multirun"]),
    (["optimizer.lr=null"], ConfigError, ["optimizer.lr", "takes a number"]),
    (["+optimizr.lr=1"], ConfigError, ["optimizr", "did you mean 'optimizer'"]),
    (["+foo=1"], ConfigError, ["foo", "nothing refers to it"]),
    (["+optimizer.params=1"], ConfigError, ["takes no 'params'"]),
    # ranges
    (["trainer.epochs=1e30"], ConfigError, ["at most 1e9"]),
    (["data.val=0", "trainer.early_stop=1"], ConfigError, ["trainer.early_stop", "data.val=0.1"]),
    (["data.val=0", "trainer.monitor=val/f1"], ConfigError, ["trainer.monitor", "data.val=0.1"]),
    (["data.val=0", "schedule._target_=dlrun.schedules.Plateau"], ConfigError, ["schedule=plateau", "data.val=0.1"]),
    (["+dat=1"], ConfigError, ["dat", "nothing refers to it"]),
    (["data.val=0", "schedule=plateau"], ConfigError, ["schedule=plateau", "data.val=0.1"]),
    (["optimizer.lr=-1"], ConfigError, ["optimizer", "learning rate", "-1"]),
    (["optimizer.betas=[0.9,1.5]"], ConfigError, ["beta"]),
    (["trainer.epochs=0"], ConfigError, ["trainer.epochs=0"]),
    (["trainer.epochs=-3"], ConfigError, ["trainer.epochs=-3", "above 0"]),
    (["trainer.steps=0"], ConfigError, ["trainer.steps=0", "at least 1"]),
    (["trainer.batch_size=0"], ConfigError, ["trainer.batch_size=0"]),
    (["trainer.batch_size=100000"], ConfigError, ["more than the", "training examples"]),
    (["trainer.budget=soon"], ConfigError, ["90s, 5m or 1h30m"]),
    (["trainer.ema=2"], ConfigError, ["0.999"]),
    (["trainer.clip_norm=-1"], ConfigError, ["trainer.clip_norm=-1"]),
    (["trainer.monitor=val/acuracy"], ConfigError, ["did you mean 'val/accuracy'"]),
    (["trainer.epochs=null"], ConfigError, ["no end"]),
    (["tracking.every=0"], ConfigError, ["tracking.every=0"]),
    (["trainer.device=gpu"], ConfigError, ["trainer.device=gpu", "cuda"]),
    (["trainer.monitor=val/r2"], ConfigError, ["trainer.monitor=val/r2", "val/accuracy"]),
    (["trainer.seed=null"], ConfigError, ["trainer.seed=None", "whole number"]),
    (["trainer.batch_size=null"], ConfigError, ["trainer.batch_size=None", "auto"]),
    (["trainer.seed=99999999999999999999999"], ConfigError, ["below 2**63"]),
    (["trainer.device=meta"], ConfigError, ["trainer.device=meta", "cpu"]),
    (["trainer.device=cpu:5"], ConfigError, ["trainer.device=cpu:5"]),
    (["trainer.deterministic=maybe"], ConfigError, ["true, false or auto"]),
    (["trainer.limit.train=1.5"], ConfigError, ["trainer.limit.train=1.5"]),
    (["~optimizer"], ConfigError, ["no 'optimizer'", "dlrun list optimizer"]),
    (["~tracking.every"], ConfigError, ["tracking.every is missing"]),
    (["~trainer.ema"], ConfigError, ["trainer.ema is missing"]),
    (["+seed_of_all='${oc.env:NO_SUCH_VARIABLE}'", "trainer.seed='${seed_of_all}'"], ConfigError, ["NO_SUCH_VARIABLE"]),
    (["data.val=1.5"], ConfigError, ["1.5"]),
    (["precision.dtype=float8"], ConfigError, ["no such format"]),
    # pairings
    (["data=diabetes", "loss=cross_entropy"], ConfigError, ["diabetes", "regression", "loss=mse"]),
    (["data=diabetes", "loss=hinge"], ConfigError, ["loss=mse"]),
    (["data=diabetes", "task=classification"], ConfigError, ["diabetes"]),
    (["loss=huber", "task=regression"], ConfigError, ["digits", "10 classes"]),
    (["data=iris", "model=cnn"], ConfigError, ["image"]),
    (["data=iris", "model=lenet5"], ConfigError, ["image"]),
    (["data=iris", "model=resnet"], ConfigError, ["image"]),
    (["data=iris", "model=torchvision"], ConfigError, ["image"]),
    (["data=digits", "model=lenet5"], ConfigError, ["lenet5", "8"]),
    (["model=resnet", "model.depth=21"], ConfigError, ["21"]),
    (["model=torchvision", "model.name=resnet81"], ConfigError, ["did you mean 'resnet18'"]),
    (["task=classification", "task.outputs=2"], ConfigError, ["task.outputs=2", "10"]),
    (["data=breast_cancer", "loss=cross_entropy", "task=classification", "task.outputs=1"], ConfigError, ["loss=bce"]),
    (["optimizer=gd", "trainer.batch_size=32"], ConfigError, ["optimizer=sgd"]),
    (["optimizer=lbfgs", "precision=fp16"], ConfigError, ["precision=bf16"]),
    (["optimizer=lbfgs", "trainer.accumulate=2"], ConfigError, ["accumulate"]),
    (["model._target_=torchvision.models.resnet81"], ConfigError, ["resnet"]),
    # safety
    (["model._target_=os.system"], RefusedError, ["os.system", "not on dlrun's list"]),
    (["model._target_=torch.load"], RefusedError, ["torch.load"]),
    (["model._target_=torch.nn.functional.relu"], RefusedError, ["not on dlrun's list"]),
    (["model._target_=builtins.eval"], RefusedError, ["builtins.eval"]),
    (["optimizer._target_=logging.os.system"], RefusedError, ["logging.os.system"]),
    (["model._target_=mynet.Net"], RefusedError, ["trust=[mynet]"]),
    (["model._target_='a b'"], RefusedError, ["dotted name"]),
    # data that is named but not there
    (["data=csv"], DlrunError, ["data.path"]),
    (["data=csv", "data.path=nowhere.csv"], DataError, ["nowhere.csv"]),
    (["data=image_folder", "data.root=nowhere"], DataError, ["nowhere"]),
    (["data=image_folder", "data.root=a", "data.path=b"], ConfigError, ["data.path=b", "data.root=a"]),
    # families: what a task, an algorithm and a model ask of one another
    (["model=mlp", "task=generation"], ConfigError, ["model=gan or model=dcgan"]),
    (["model=gan", "algorithm=backpropagation"], ConfigError, ["use algorithm=adversarial"]),
    (["model=rbm", "algorithm=backpropagation"], ConfigError, ["use algorithm=contrastive_divergence"]),
    (["model=mlp", "algorithm=adversarial"], ConfigError, ["needs a model with", "model=gan"]),
    (["model=mlp", "algorithm=contrastive_divergence"], ConfigError, ["model=rbm"]),
    (["model=rbm", "loss=mse"], ConfigError, ["no loss to choose", "loss=auto"]),
    (["model=gan", "loss=mse"], ConfigError, ["generation", "loss=non_saturating"]),
    (["model=gan", "engine=compile"], ConfigError, ["engine=eager"]),
    (["model=gan", "precision=fp16"], ConfigError, ["precision=bf16"]),
    (["model=gan", "algorithm.critic_steps=0"], ConfigError, ["critic_steps=0"]),
    (["model=lstm", "algorithm=truncated_backpropagation"], ConfigError, ["use algorithm=backpropagation"]),
    (["model=mlp", "data=text"], ConfigError, ["model=mlp cannot take inputs of shape (64,)"]),
    (["model=lstm", "data=text", "model.bidirectional=true"], ConfigError, ["model.bidirectional=false"]),
    (["model=lstm", "model.pool=lats"], ConfigError, ["did you mean 'last'"]),
    (["model=transformer"], ConfigError, ["needs data=text", "transformer_encoder"]),
    (["model=vit", "model.patch=3"], ConfigError, ["model.patch"]),
    (["model=vit", "data=iris"], ConfigError, ["vit"]),
    (["model=dlinear"], ConfigError, ["dlinear"]),
    (["model=mlp", "task=variational"], ConfigError, ["model=vae"]),
    (["model=mlp", "task=reconstruction"], ConfigError, ["model=autoencoder"]),
    (["model=autoencoder", "algorithm=layerwise"], ConfigError, ["activation=sigmoid"]),
    (["model=dbm", "trainer.early_stop=3"], ConfigError, ["trainer.early_stop=null"]),
    (["model=dbn", "schedule=plateau"], ConfigError, ["another schedule than plateau"]),
    (["model=denoising", "task.corruption=gausian"], ConfigError, ["did you mean 'gaussian'"]),
    (["model=mlp", "task=max_margin"], ConfigError, ["model=svm"]),
    (["model=svm", "loss=hinge"], ConfigError, ["loss=auto"]),
    (["task=super_resolution"], ConfigError, ["super_resolution"]),
    (["task=forecasting"], ConfigError, ["forecasting"]),
    (["data.pixels=unti"], ConfigError, ["did you mean 'unit'"]),
    # families: data
    (["data=text", "data.path=/nowhere/book.txt", "model=lstm"], DataError, ["/nowhere/book.txt"]),
    (["data=text", "data.context=1000000", "model=lstm"], DataError, ["context"]),
    (["data=text_classification", "model=lstm"], ConfigError, ["data.path="]),
    (["data=series", "model=dlinear"], ConfigError, ["data.path="]),
    (["data=libsvm"], ConfigError, ["data.path="]),
    (["data=audio_folder"], ConfigError, ["data.root="]),
    (["data=superres", "model=srcnn"], ConfigError, ["data.path="]),
    (["data=faces"], ConfigError, ["data.path="]),
]  # fmt: skip


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(
    ("overrides", "kind", "words"), CASES, ids=lambda value: ",".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_refused_with_a_sentence(
    overrides: list[str], kind: type[DlrunError], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        train(compose(overrides), root=tmp_path, command=["dlrun"], reporter=NoReporter())  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence, sentence
    assert not list(tmp_path.iterdir()), "nothing is written before the check"


class NoReporter:
    """Fails at the first thing a run would say: nothing may get that far."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the run went as far as reporting ({name})")


def test_nothing_is_read_before_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlrun.data.idx_files import IdxImages

    def load(self: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(IdxImages, "load", load)
    assert check(compose(["data=mnist", "model=lenet5"])).facts.sizes["test"] == 10_000


def test_unwritable_outputs_are_found_before_training(tmp_path: Path) -> None:
    occupied = tmp_path / "outputs"
    occupied.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="--outputs"):
        train(compose([]), root=occupied, command=["dlrun"], reporter=NoReporter())  # type: ignore[arg-type]


def test_a_trusted_package_is_found_beside_the_user_and_an_untrusted_one_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet_for_dlrun.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, width: int, in_features: int, out_features: int) -> None:\n"
        "        super().__init__()\n"
        "        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_features, width),\n"
        "                                          torch.nn.ReLU(), torch.nn.Linear(width, out_features))\n"
        "    def forward(self, x):\n"
        "        return self.layers(x)\n"
    )
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    (folder / "mynet.yaml").write_text("# My own network\n_target_: mynet_for_dlrun.Net\nwidth: 8\n")
    monkeypatch.chdir(tmp_path)
    config = compose(["model=mynet", "model.width=5"], [tmp_path / "conf"])
    with pytest.raises(RefusedError, match=r"trust=\[mynet_for_dlrun\]"):
        check(config)
    experiment = check(config, ["mynet_for_dlrun"])
    assert sum(p.numel() for p in experiment.model().parameters()) == 64 * 5 + 5 + 5 * 10 + 10
    with pytest.raises(ConfigError, match=r"takes no 'widht'.*did you mean 'width'"):
        check(compose(["model=mynet", "+model.widht=5"], [tmp_path / "conf"]), ["mynet_for_dlrun"])
