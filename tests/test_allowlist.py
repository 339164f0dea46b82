"""Nothing outside the list is imported or called, whatever a config says (RELIABILITY.md S1)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dlrun.allowlist import OWN, locate
from dlrun.binding import make
from dlrun.errors import ConfigError, DlrunError, RefusedError

HOSTILE = [
    # shells and processes
    "os.system", "posix.system", "os.popen", "os.execv", "os.spawnl", "nt.system", "logging.os.system", "pty.spawn",
    "subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output",
    "asyncio.create_subprocess_shell",
    "platform.os.system", "webbrowser.open", "multiprocessing.Process", "signal.raise_signal", "os.kill", "os._exit",
    # running text
    "builtins.eval", "builtins.exec", "builtins.__import__", "builtins.open", "builtins.compile", "eval", "exec",
    "code.interact", "runpy.run_path", "timeit.timeit", "importlib.import_module", "pydoc.locate", "types.FunctionType",
    # calling something else
    "functools.partial", "operator.attrgetter", "operator.methodcaller", "operator.call", "itertools.starmap",
    "hydra.utils.instantiate", "hydra.utils.get_method", "hydra._internal.utils._locate", "omegaconf.OmegaConf.load",
    "unittest.mock.patch", "contextlib.ExitStack", "threading.Timer",
    # loading
    "torch.load", "torch.hub.load", "torch.jit.load", "torch.utils.cpp_extension.load", "torch.save",
    "torch.ops.load_library",
    "torch.utils.cpp_extension.load_inline", "torch.classes.load_library", "torch.serialization.load", "torch.compile",
    "torch.package.PackageImporter", "torch.distributed.rpc.rpc_sync", "torch.utils.data.DataLoader", "torch.fx.wrap",
    "torch.optim.lr_scheduler.LambdaLR", "torch.optim.lr_scheduler.StepLR", "torch.optim.swa_utils.AveragedModel",
    "numpy.load", "numpy.f2py.compile", "numpy.f2py.crackfortran.myeval", "numpy.fromfile", "numpy.memmap",
    "numpy.testing.runstring", "numpy.ctypeslib.load_library", "ctypes.CDLL", "ctypes.cdll.LoadLibrary",
    "pickle.loads", "pickle.load", "_pickle.loads", "dill.loads", "cloudpickle.loads", "marshal.loads", "shelve.open",
    "pandas.read_pickle", "pandas.eval", "pandas.read_csv", "joblib.load", "yaml.unsafe_load",
    "safetensors.torch.load_file",
    "sklearn.utils._joblib.load", "sklearn.pipeline.Pipeline", "tensorboard.program.TensorBoard", "dlrun.torch.load",
    # files and network
    "shutil.rmtree", "shutil.copy", "pathlib.Path.unlink", "pathlib.Path", "os.remove", "os.chmod", "tempfile.mktemp",
    "tarfile.open", "zipfile.ZipFile.extractall", "urllib.request.urlopen", "urllib.request.urlretrieve",
    "socket.socket",
    "http.server.test", "smtplib.SMTP", "sqlite3.connect", "ftplib.FTP", "antigravity.geohash", "this.s",
    # through an allowed object
    "torch.nn.Module.__class__", "torch.nn.Module.__subclasses__", "torch.nn.Linear.__init__",
    "torch.nn.modules.linear.Linear.__init__.__globals__", "torch.nn.modules.linear.Linear",
    "torch.nn.modules.os.system",
    "torch.nn.init.normal_", "torch.nn.functional.relu", "torch.nn.utils.clip_grad_norm_",
    "torch.nn.parameter.Parameter",
    "torch.nn.Parameter", "torch.nn.Buffer", "torch.nn.functional", "torch.nn.__builtins__", "torch.nn.__dict__",
    "torch.nn.__loader__", "torch.nn._Linear", "torch.optim.__builtins__", "torch.optim.lr_scheduler",
    "torch.optim.sys",
    "torch.nn.factory_kwargs", "torch.nn.nope", "torch.nn", "torch", "torch.optim.Adam.step", "torch.nn.Linear.forward",
    "torch.optim.optimizer.Optimizer", "torch.optim.adam.Adam", "torch._utils_internal.os.system",
    # torchvision's builders and what is beside them
    "torchvision.models._utils.IntermediateLayerGetter", "torchvision.models.resnet.ResNet", "torchvision.io.read_file",
    "torchvision.models.quantization.resnet18", "torchvision.datasets.MNIST",
    "torchvision.models.resnet.load_state_dict_from_url",
    # dlrun's own
    "dlrun.allowlist.locate", "dlrun.run.train", "dlrun.trained.predict", "dlrun.config.load_config",
    "dlrun.binding.make",
    "dlrun.build.OmegaConf.load", "dlrun.training.checkpoint.read", "dlrun.losses.Loss", "dlrun.losses.torch.load",
    "dlrun.tracking.durable.write", "dlrun.models.cnn.nn.Linear", "dlrun.cli.main.main", "dlrun", "dlrun.losses",
    "dlrun.losses.CrossEntropy.__init__", "dlrun.losses.CrossEntropy ", " dlrun.losses.CrossEntropy",
    # spelling
    "", ".", "..", ".os.system", "os.system.", "os..system", " os.system", "os.system\n", "os\x00.system", "os/system",
    "os:system", "os.system()", "os.system('id')", "__main__.x", "\u043es.system", "\uff4fs.system", "os.\uff53ystem",
    "torch.\uff4en.Linear", "torch.nn.Line\u0430r", "torch\u3002nn\u3002Linear", "TORCH.NN.LINEAR", "${oc.env:HOME}",
    "a" * 100_000, ".".join("a" * 10_000), "torch.nn." + "L" * 100_000, "1.2", "lambda: 0", "os.system,os.system",
]  # fmt: skip
UNKNOWN_BUILDERS = [
    "get_model",
    "list_models",
    "get_weight",
    "get_model_builder",
    "register_model",
    "os",
    "_api",
    "__class__",
]
NOT_TEXT: list[Any] = [None, 5, True, 1.5, [], ["os", "system"], {}, {"_target_": "os.system"}, b"os.system"]


def shown(value: object) -> str:
    return ascii(value)[:60]


def test_the_corpus_is_long_enough() -> None:
    assert len(set(HOSTILE)) + len(UNKNOWN_BUILDERS) + len(NOT_TEXT) >= 120


@pytest.mark.parametrize("target", [*HOSTILE, *NOT_TEXT], ids=shown)
def test_a_hostile_target_is_refused_and_nothing_is_imported(target: Any, tmp_path: Path) -> None:
    locate("torch.nn.Linear", "model")  # what the list itself may import is there
    before, path, canary = set(sys.modules), list(sys.path), tmp_path / "canary"
    node = {"_target_": target, "command": f"touch {canary}", "args": [f"touch {canary}"]}
    with pytest.raises(RefusedError, match=r"model._target_="):
        make(node, "model")
    assert set(sys.modules) == before
    assert sys.path == path
    assert not canary.exists()


@pytest.mark.parametrize("name", UNKNOWN_BUILDERS)
def test_torchvision_gives_its_builders_alone(name: str) -> None:
    with pytest.raises(ConfigError, match=name.strip("_")):
        make({"_target_": f"torchvision.models.{name}"}, "model", {"in_shape": (3, 32, 32), "out_features": 2})


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_target_in_an_argument_is_gated_too(depth: int) -> None:
    node: dict[str, Any] = {"_target_": "os.system", "command": "true"}
    for _ in range(depth):
        node = {"_target_": "torch.nn.Sequential", "args": node}
    with pytest.raises(RefusedError, match=r"model(\.args)+\._target_=os.system"):
        make(node, "model")


def test_a_target_in_a_list_or_a_plain_mapping_is_never_built(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    hostile = {"_target_": "os.system", "command": f"touch {canary}"}
    for value in ([hostile], [[hostile]], {"inner": hostile}):
        with pytest.raises(DlrunError):
            make({"_target_": "torch.nn.Linear", "in_features": value, "out_features": 2}, "model")
    assert not canary.exists()


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_recursive_", "_convert_", "__class__", "self"])
def test_hydra_s_own_keys_mean_nothing(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2, key: True}, "model")


@pytest.mark.parametrize("package", ["dlrun", "torch", "torchvision"])
def test_trust_opens_nothing_of_the_library_s(package: str) -> None:
    targets = {"dlrun": "dlrun.run.train", "torch": "torch.load", "torchvision": "torchvision.io.read_file"}
    with pytest.raises(RefusedError):
        locate(targets[package], "model", [package])


def test_everything_on_the_list_is_there() -> None:
    for target in OWN:
        assert callable(locate(target, "x"))
    for target in ("torch.nn.ReLU", "torch.optim.SGD", "torchvision.models.resnet18"):
        assert callable(locate(target, "x"))


# the user's own package


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package beside the user; its import and its calls leave a canary."""
    package = tmp_path / "own_for_dlrun"
    package.mkdir()
    (package / "__init__.py").write_text("from os import system\nfrom shutil import rmtree\nfrom pathlib import Path\n")
    (package / "net.py").write_text(
        "import torch\nfrom collections import OrderedDict\nimport pathlib\n"
        f"pathlib.Path({str(tmp_path)!r}, 'imported').touch()\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, inner=None):\n        super().__init__()\n        self.inner = inner\n"
        "    def method(self): ...\n"
        "def build(width: int): return Net()\nwidth = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path  # type: ignore[misc]
    for name in [name for name in sys.modules if name.startswith("own_for_dlrun")]:
        del sys.modules[name]


def test_an_own_package_needs_trust_and_is_not_imported_without(own: Path) -> None:
    for trusted in ([], ["own"], ["own_for_dlrun.net"], ["OWN_FOR_DLRUN"]):
        with pytest.raises(RefusedError, match=r"trust=\[own_for_dlrun\]"):
            locate("own_for_dlrun.net.Net", "model", trusted)
    assert not (own / "imported").exists()
    assert locate("own_for_dlrun.net.Net", "model", ["own_for_dlrun"]).__name__ == "Net"
    assert (own / "imported").exists()


def test_what_a_trusted_node_holds_is_gated_too(own: Path) -> None:
    node = {"_target_": "own_for_dlrun.net.Net", "inner": {"_target_": "os.system", "command": f"touch {own}/canary"}}
    with pytest.raises(RefusedError, match=r"model\.inner\._target_=os\.system"):
        make(node, "model", {}, ["own_for_dlrun"])
    assert not (own / "canary").exists()


@pytest.mark.parametrize("name", ["rmtree", "Path", "net.OrderedDict"])
def test_a_name_from_another_package_is_refused(own: Path, name: str) -> None:
    with pytest.raises(RefusedError, match="is really"):
        locate(f"own_for_dlrun.{name}", "model", ["own_for_dlrun"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.Nat", "did you mean 'Net'"),
        ("net.width", "has no class or function 'width'"),
        ("net.torch", "has no class or function 'torch'"),
        ("system", "has no class or function 'system'"),
        ("nett.Net", "there is no module 'own_for_dlrun.nett'"),
        ("net.Net.method", "there is no module 'own_for_dlrun.net.Net'"),
        ("net.pathlib.Path", "there is no module 'own_for_dlrun.net.pathlib'"),
    ],
)
def test_a_name_that_is_not_there(own: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        locate(f"own_for_dlrun.{name}", "model", ["own_for_dlrun"])


def test_a_package_that_is_not_there_says_where_it_was_looked_for(own: Path) -> None:
    with pytest.raises(ConfigError, match=rf"no module 'nowhere_for_dlrun' on the path or in {own}"):
        locate("nowhere_for_dlrun.Net", "model", ["nowhere_for_dlrun"])


def test_the_current_folder_comes_last(own: Path) -> None:
    (own / "json.py").write_text("raise RuntimeError('the planted json was imported')\n")
    locate("own_for_dlrun.net.Net", "model", ["own_for_dlrun"])
    assert sys.path[-1] == str(own)
